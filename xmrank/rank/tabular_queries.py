"""New queries in tables, by the rules that readers of data sets have: text, JSON and parquet."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.config.common import Direction
from xmrank.datasets.caption_texts import cell_texts, text_fault
from xmrank.datasets.columns import CAPTION_ID, ID, IMAGE, find_usual, find_usual_captions, find_usual_path
from xmrank.datasets.json_rows import LINES, read_json_table
from xmrank.datasets.locations import in_parquet, leads_outside
from xmrank.datasets.path_tables import PathTable, join_path, strip_root
from xmrank.datasets.table_rows import name_cells
from xmrank.datasets.text_table import read_text_table
from xmrank.datasets.uris import FAULTS, one_line
from xmrank.embed.store import check_embeddings, to_unit_length
from xmrank.rank.query_set import FLAG, KIND_DIRECTIONS, Kind, QuerySet
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import sha256_file, sha256_json
from xmrank.runtime.storage import local_copy

EMBEDDING = ("embedding", "embeddings", "vector", "features")
QUERY_ID = ("query_id",)
JSON = (".json", *LINES)


@dataclass(frozen=True)
class QueryColumns:
    """Which columns of a table hold the queries.

    Attributes:
        kind: of the queries.
        names: of their columns; only captions have several.
        folder: column of the folders that the images' paths start from.
        id: column of the ids.
        own_ids: whether the ids are the queries' own; those of images repeat where an image has several captions.
        stored: whether the images themselves are in the table.
    """

    kind: Kind
    names: tuple[str, ...]
    folder: str | None = None
    id: str | None = None
    own_ids: bool = False
    stored: bool = False


def read_table_queries(path: Path, column: str | None, direction: Direction | None, id_column: str | None) -> QuerySet:
    """The queries in a table: captions, several where a cell holds a list, or one image or embedding a row.

    Rows of one image by its path are one query of i2t. Empty captions and damaged rows are left out and listed.

    Raises:
        ConfigError: a column that is not there, or not given where several fit.
        DataError: a broken file, or no queries in it.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    schema = read_schema(path) if is_parquet else None
    table = None if is_parquet else read_text_rows(path)
    header = schema.names if schema is not None else list(table.cells if table else ())
    columns = find_query_columns(header, schema, path, column, direction, id_column)
    if schema is not None:
        table = read_parquet_rows(path, columns)
    assert table is not None
    left_out = {f"{table.unit} {number}": reason for number, reason in table.damaged}
    ids = name_rows(table, columns.id)
    if columns.kind == "embedding":
        queries = make_embedding_queries(path, table, columns, ids)
    elif columns.kind == "text":
        queries = make_text_queries(table, columns, ids, left_out)
    else:
        queries = make_image_queries(path, table, columns, ids, left_out)
    if not len(queries):
        first = next((f": {row}: {reason}" for row, reason in left_out.items()), "")
        raise DataError(f"{path}: no queries in it{first} ({FLAG})")
    return queries


def read_schema(path: Path) -> pa.Schema:
    """The columns of a parquet file."""
    try:
        return pq.read_schema(local_copy(path))
    except FAULTS as error:
        raise DataError(f"{path}: not readable as parquet: {one_line(error)} ({FLAG})") from None


def read_text_rows(path: Path) -> PathTable:
    """The rows of a table in text form or JSON."""
    read = read_json_table if path.suffix.lower() in JSON else read_text_table
    return read(str(path), path.name, FLAG)


def read_parquet_rows(path: Path, columns: QueryColumns) -> PathTable:
    """The rows of a parquet file, without images that are stored in it."""
    names = [*([] if columns.stored else columns.names), columns.folder, columns.id]
    # The same column may have ids and queries.
    wanted = list(dict.fromkeys(name for name in names if name))
    try:
        with pq.ParquetFile(local_copy(path), page_checksum_verification=True) as file:
            table, rows = file.read(columns=wanted), file.metadata.num_rows
        # Texts need not be UTF-8.
        table.validate(full=True)
        cells = {name: table[name].to_pylist() for name in wanted}
    except FAULTS as error:
        raise DataError(f"{path}: not readable as parquet: {one_line(error)} ({FLAG})") from None
    return PathTable(path.name, "row", cells, range(rows), ())


def find_query_columns(
    header: Sequence[str],
    schema: pa.Schema | None,
    path: Path,
    column: str | None,
    direction: Direction | None,
    id_column: str | None,
) -> QueryColumns:
    """The columns of the queries and of their ids.

    Raises:
        ConfigError: one is not there, or several fit.
        DataError: two columns have the same name.
    """
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError(f'{path}: two columns are named "{twice[0]}" ({FLAG})')
    for flag, name in (("--column", column), ("--id-column", id_column)):
        if name and name not in header:
            raise ConfigError(f"{flag} {name}: no such column in {path.name}; its columns: {', '.join(header)}")
    # Names in any case; of two that differ in case alone, the first.
    known = {name.strip().lower(): name for name in reversed(header)}
    image, folder = find_usual_path(known)
    names: tuple[str, ...]
    if column:
        kind, names = column_kind(column, schema, direction), (column,)
        folder = folder if column == image else None
    else:
        embedding = find_usual(EMBEDDING, known) if schema is not None else None
        fitting: dict[Kind, tuple[str, ...]] = {"text": find_usual_captions(known, header)}
        fitting |= {"image": (image,) if image else (), "embedding": (embedding,) if embedding else ()}
        kind, names = choose_kind(fitting, direction, path)
    # A caption's own id is none of its image.
    own = find_usual((*QUERY_ID, *(() if kind == "image" else CAPTION_ID)), known)
    ids = id_column or own or find_usual(ID, known)
    stored = kind == "image" and schema is not None and not is_text(schema.field(names[0]).type)
    return QueryColumns(
        kind, names, folder if kind == "image" else None, ids, not id_column and own is not None, stored
    )


def choose_kind(
    fitting: Mapping[Kind, tuple[str, ...]], direction: Direction | None, path: Path
) -> tuple[Kind, tuple[str, ...]]:
    """The kind of the queries and their columns, of those with usual names.

    Raises:
        ConfigError: none, or several.
    """
    # Captions are no queries of i2t, images none of t2i; embeddings fit both.
    usual = {kind: names for kind, names in fitting.items() if names}
    if direction is not None:
        usual = {kind: n for kind, n in usual.items() if KIND_DIRECTIONS.get(kind, direction) == direction}
    if len(usual) != 1:
        names = ", ".join(name for group in usual.values() for name in group)
        which = f"several fit: {names}" if usual else "none has a usual name"
        raise ConfigError(f"--column: give the column of the queries in {path.name}, {which}")
    ((kind, columns),) = usual.items()
    return kind, columns


def column_kind(column: str, schema: pa.Schema | None, direction: Direction | None) -> Kind:
    """What a column of any name holds, by its type; text may be captions or the images' paths."""
    kind = schema.field(column).type if schema is not None else pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "embedding" if pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type) else "text"
    if is_text(kind):
        return "image" if direction == "i2t" or column.lower() in IMAGE else "text"
    return "image"


def is_text(kind: pa.DataType) -> bool:
    """Whether a column's values are texts."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def name_rows(table: PathTable, column: str | None) -> list[str]:
    """The id of every row: that of its column, or the row's number where it has none."""
    names: Sequence[str | None] = name_cells(table.cells[column]) if column else [None] * len(table.numbers)
    return [name or str(number) for name, number in zip(names, table.numbers, strict=True)]


def make_text_queries(
    table: PathTable, columns: QueryColumns, ids: Sequence[str], left_out: dict[str, str]
) -> QuerySet:
    """A query for each caption. Where an id has several, they are numbered: the image's id, # and the number."""
    found: list[tuple[str, object]] = []
    for row, name in enumerate(ids):
        texts = [text for column in columns.names for text in cell_texts(table.cells[column][row]) if text != ""]
        found += [(name, text) for text in texts or [""]]
    refuse_repeated_ids(ids, columns, table.source)
    counts = Counter(name for name, _ in found)
    numbers: Counter[str] = Counter()
    kept: list[tuple[str, str]] = []
    for name, text in found:
        query = f"{name}#{numbers[name]}" if counts[name] > 1 else name
        # Broken ones count, so that the ids of the others do not change when one is repaired.
        numbers[name] += 1
        if fault := text_fault(text):
            left_out[query] = f"the caption {fault}"
        else:
            kept.append((query, str(text).strip()))
    names, captions = [name for name, _ in kept], [text for _, text in kept]
    return QuerySet("text", names, captions, captions, None, sha256_json([names, captions]), left_out)


def refuse_repeated_ids(ids: Iterable[str], columns: QueryColumns, source: str) -> None:
    """Raise DataError where the queries' own ids are not all different."""
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if columns.own_ids and twice:
        raise DataError(f'{source}: the id "{twice[0]}" under {columns.id} occurs more than once ({FLAG})')


def make_image_queries(
    path: Path, table: PathTable, columns: QueryColumns, ids: list[str], left_out: dict[str, str]
) -> QuerySet:
    """A query for each image; rows with the same path are one.

    Raises:
        DataError: a path that leads out of the table's folder.
    """
    digest = sha256_file(path)
    # Images inside the table are read later, each by its row.
    if columns.stored:
        return QuerySet(
            "image", ids, ids, [in_parquet(str(path), columns.names[0], row) for row in table.numbers], None, digest
        )
    ids_of: dict[str, str] = {}
    folders = name_cells(table.cells[columns.folder]) if columns.folder else None
    for row, value in enumerate(table.cells[columns.names[0]]):
        name = value if isinstance(value, str) else ""
        name = strip_root(join_path(folders[row] or "", name) if folders else name, path.parent)
        if not name:
            left_out[ids[row]] = f"nothing under {columns.names[0]}"
        # A table from elsewhere must not read other files of this machine.
        elif leads_outside(name):
            raise DataError(f"{path}: {columns.names[0]} {name}: lies outside of the folder of the file ({FLAG})")
        else:
            ids_of.setdefault(name, ids[row])
    paths = [str(path.parent / name) for name in ids_of]
    return QuerySet("image", list(ids_of.values()), list(ids_of), paths, None, digest, left_out)


def make_embedding_queries(path: Path, table: PathTable, columns: QueryColumns, ids: list[str]) -> QuerySet:
    """A query for each row, of unit length.

    Raises:
        DataError: rows that are no vectors of one length, or nothing but zeros.
    """
    (column,) = columns.names
    values = table.cells[column]
    for row, value in enumerate(values):
        if value is None:
            raise DataError(f"{path}: row {row}: nothing under {column} ({FLAG})")
    name = f"{path}: {column}"
    if not values:
        return QuerySet("embedding", [], [], [], None, "")
    try:
        array = np.array(values, np.float32)
    except (ValueError, TypeError):
        raise DataError(f"{name}: expected lists of numbers, all of one length ({FLAG})") from None
    check_embeddings(array, name)
    vectors: Any = to_unit_length(array, np.dtype(np.float32))
    return QuerySet("embedding", ids, [""] * len(ids), [], vectors, sha256_file(path))
