"""New queries from files: captions, images, or embeddings that exist."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.config.common import Direction
from xmrank.datasets.columns import CAPTION, IMAGE
from xmrank.datasets.locations import in_parquet, leads_outside
from xmrank.datasets.uris import FAULTS, IMAGE_SUFFIXES, file_sizes, list_files
from xmrank.embed.store import check_embeddings, to_unit_length
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import sha256_file, sha256_json

Kind = Literal["text", "image", "embedding"]
EMBEDDING = ("embedding", "embeddings", "vector", "features")
ID = ("query_id", "caption_id", "image_id", "id", "key")
KIND_DIRECTIONS: dict[Kind, Direction] = {"text": "t2i", "image": "i2t"}
"""The direction of queries of a kind; embeddings may be of either."""
FLAG = "--queries"


@dataclass(frozen=True)
class QuerySet:
    """The queries, in order.

    Attributes:
        ids: all different.
        shown: the captions, or the images' paths from their folder; empty texts where there is nothing to show.
        items: the captions, or the images' paths; empty for embeddings.
        embeddings: float32 [queries, d] of unit length; None for the other kinds.
        fingerprint: of the content; for images in a folder, of their paths and sizes.
    """

    kind: Kind
    ids: list[str]
    shown: list[str]
    items: list[str]
    embeddings: np.ndarray | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.ids)


def read_queries(path: Path, column: str | None, direction: Direction | None) -> QuerySet:
    """Read the queries in a text file, a folder of images or a parquet file.

    Args:
        path: where they are.
        column: of a parquet file; None: the one with a usual name.
        direction: decides between a column of captions and one of images.

    Raises:
        ConfigError: a column that is not there, or not given where several fit.
        DataError: no such file, an empty one, or one of another format.
    """
    if path.is_dir():
        queries = read_image_queries(path)
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder ({FLAG})")
    elif path.suffix.lower() == ".parquet":
        queries = read_table_queries(path, column, direction)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError(f"{path}: an image; expected a folder of images ({FLAG})")
    else:
        queries = read_text_queries(path)
    # After reading, so that a wrong path is named before a wrong column.
    if column and path.suffix.lower() != ".parquet":
        raise ConfigError(f"--column {column}: only a parquet file has columns, {FLAG} is {path.name}")
    if len(set(queries.ids)) < len(queries.ids):
        twice = next(name for name in queries.ids if queries.ids.count(name) > 1)
        raise DataError(f'{path}: the id "{twice}" occurs more than once ({FLAG})')
    return queries


def read_text_queries(path: Path) -> QuerySet:
    """One caption for each line; its id is the line's number, from 1. Empty lines are skipped."""
    try:
        # Editors on Windows begin a file with a byte order mark.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: not text in UTF-8; expected one caption a line, or a .parquet file ({FLAG})"
        ) from None
    numbered = [(str(number), line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: no queries in it; expected one caption a line ({FLAG})")
    ids, texts = [number for number, _ in numbered], [text for _, text in numbered]
    return QuerySet("text", ids, texts, texts, None, sha256_json([ids, texts]))


def read_image_queries(folder: Path) -> QuerySet:
    """All images below a folder; an image's id is its path from there."""
    names = [name for name in list_files(folder) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not names:
        raise DataError(f"{folder}: no images in it ({FLAG})")
    paths = [str(folder / name) for name in names]
    # Names and sizes: reading every image only to fingerprint it would take as long as embedding it.
    return QuerySet("image", names, names, paths, None, sha256_json([names, file_sizes(paths)]))


def read_table_queries(path: Path, column: str | None, direction: Direction | None) -> QuerySet:
    """One query for each row."""
    try:
        schema = pq.read_schema(path)
        name, kind = find_column(schema, path, column, direction)
        id_column = find_usual(ID, schema)
        # The same column may have ids and queries.
        columns = list(dict.fromkeys([c for c in (id_column, name) if c]))
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
        # Texts need not be UTF-8.
        table.validate(full=True)
    except FAULTS as error:
        raise DataError(f"{path}: not readable as parquet: {' '.join(str(error).split())} ({FLAG})") from None
    if not len(table):
        raise DataError(f"{path}: no queries in it ({FLAG})")
    ids = list(map(str, table[id_column].to_pylist())) if id_column else list(map(str, range(len(table))))
    values = table[name].combine_chunks()
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f"{path}: row {row}: nothing under {name} ({FLAG})")
    if kind == "embedding":
        return QuerySet(kind, ids, [""] * len(ids), [], unit_vectors(values, f"{path}: {name}"), sha256_file(path))
    if kind == "text":
        texts = [str(text) for text in values.to_pylist()]
        return QuerySet(kind, ids, texts, texts, None, sha256_json([ids, texts]))
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return QuerySet(kind, ids, *resolve_image_paths(path, name, values.to_pylist()), None, sha256_file(path))
    # Images inside the table are read later, each by its row.
    locations = [in_parquet(str(path), name, row) for row in range(len(ids))]
    return QuerySet(kind, ids, ids, locations, None, sha256_file(path))


def find_column(schema: pa.Schema, path: Path, column: str | None, direction: Direction | None) -> tuple[str, Kind]:
    """Name and kind of the queries' column.

    Raises:
        ConfigError: it is not there, or several fit.
    """
    if column and column not in schema.names:
        raise ConfigError(f"--column {column}: no such column in {path.name}; its columns: {', '.join(schema.names)}")
    kinds: dict[Kind, tuple[str, ...]] = {"text": CAPTION, "image": IMAGE, "embedding": EMBEDDING}
    if column:
        return column, column_kind(schema.field(column), direction)
    usual = {kind: name for kind, names in kinds.items() if (name := find_usual(names, schema))}
    if direction:
        # Captions are no queries of i2t, images none of t2i; embeddings fit both.
        usual = {kind: name for kind, name in usual.items() if KIND_DIRECTIONS.get(kind, direction) == direction}
    if len(usual) != 1:
        which = f"several fit: {', '.join(usual.values())}" if usual else "none has a usual name"
        raise ConfigError(f"--column: give the column of the queries in {path.name}, {which}")
    ((kind, name),) = usual.items()
    return name, kind


def column_kind(field: pa.Field, direction: Direction | None) -> Kind:
    """What a column of any name holds, by its type; text may be captions or the images' paths."""
    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type) or pa.types.is_fixed_size_list(field.type):
        return "embedding"
    if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
        return "image" if direction == "i2t" or field.name.lower() in IMAGE else "text"
    return "image"


def find_usual(names: tuple[str, ...], schema: pa.Schema) -> str | None:
    """The first of the usual names that a table has."""
    # Names in any case; of two that differ in case alone, the first.
    known = {name.lower(): name for name in reversed(schema.names)}
    return next((known[name] for name in names if name in known), None)


def resolve_image_paths(path: Path, column: str, names: list[str]) -> tuple[list[str], list[str]]:
    """The paths as they are given, and joined to the table's folder.

    Raises:
        DataError: a path that leads out of the folder.
    """
    # A table from elsewhere must not read other files of this machine.
    outside = [name for name in names if leads_outside(name)]
    if outside:
        raise DataError(f"{path}: {column} {outside[0]}: lies outside of the folder of the file ({FLAG})")
    return names, [str(path.parent / name) for name in names]


def unit_vectors(values: pa.Array, name: str) -> np.ndarray:
    """A column of lists of one length as float32 [rows, d] of unit length.

    Raises:
        DataError: other values, other lengths, NaN, infinity, or nothing but zeros.
    """
    try:
        array = np.array(values.to_pylist(), np.float32)
    except (ValueError, TypeError):
        raise DataError(f"{name}: expected lists of numbers, all of one length ({FLAG})") from None
    check_embeddings(array, name)
    return to_unit_length(array, np.dtype(np.float32))
