"""Rows of parquet files: images as bytes, which stay in their file, or as paths."""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmrank.datasets.columns import TableColumns, find_columns, require_columns
from xmrank.datasets.locations import in_parquet
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.path_tables import join_below, read_paths, strip_roots
from xmrank.datasets.reader_settings import HuggingFaceSettings
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.table_rows import RowBlock, RowReader, name_cells
from xmrank.datasets.uris import FAULTS, locate_file, one_line, refuse_special
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri

FOLDER_TABLE = "metadata.parquet"
"""An image folder's table: the paths in it start at its own folder."""
ROWS = 8192
"""Rows of captions in memory at a time."""
STORED_ROWS = 256
"""Rows with the bytes of images in memory at a time."""


@dataclass(frozen=True)
class ParquetTable:
    """A parquet file and what its columns hold.

    Attributes:
        name: location of the file, below the root.
        address: of the file.
        size: in bytes.
        schema: of its columns.
        columns: which of them hold what.
    """

    name: str
    address: str
    size: int
    schema: pa.Schema
    columns: TableColumns

    @classmethod
    def open(cls, name: str, address: str, size: int, settings: HuggingFaceSettings) -> "ParquetTable":
        """The table in a file; its rows are not read.

        Raises:
            ConfigError: a flag names a column that the file does not have.
            DataError: not parquet, or without images or captions.
        """
        with open_parquet(address, name) as file:
            schema = file.schema_arrow
        columns = find_columns(schema.names, settings.columns, settings.split_field, name)
        columns = find_image_column(schema, columns)
        require_columns(columns, schema.names, name)
        table = cls(name, address, size, schema, columns)
        # --columns.id may name the pictures themselves: then each is an image of its own.
        if table.is_stored and columns.id == columns.image:
            return replace(table, columns=replace(columns, id=None))
        return table

    @property
    def stem(self) -> str:
        """Its location without the suffix."""
        return str(PurePosixPath(self.name).with_suffix(""))

    @property
    def image_type(self) -> pa.DataType:
        """Of the images' column."""
        return self.schema.field(str(self.columns.image)).type

    @property
    def is_stored(self) -> bool:
        """Whether the images are in the file; False: it holds their paths.

        Raises:
            DataError: the column holds neither.
        """
        kind = self.image_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return False
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or self.has_struct:
            return True
        raise DataError(
            f"{self.name}: the column {self.columns.image} holds {kind}, expected images as bytes, or paths"
        )

    @property
    def has_struct(self) -> bool:
        """Whether the images are structs of their bytes, and perhaps their path, as Hugging Face writes them."""
        return pa.types.is_struct(self.image_type) and "bytes" in self.image_type.names

    @property
    def has_paths(self) -> bool:
        """Whether the images have paths beside their bytes."""
        return self.has_struct and "path" in self.image_type.names

    def describe(self, row: int) -> str:
        """What messages call a row."""
        return f"{self.name}: row {row}"

    def iterate(self, names: Sequence[str], rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of some columns, each with the number of its first row.

        Raises:
            DataError: a broken file.
        """
        start = 0
        try:
            with open_parquet(self.address, self.name) as file:
                for batch in file.iter_batches(rows, columns=list(names)):
                    # Texts need not be UTF-8.
                    batch.validate(full=True)
                    yield start, batch
                    start += len(batch)
        except FAULTS as error:
            raise DataError(f"{self.name}: broken after row {start}: {one_line(error)}") from None


def open_parquet(address: str, source: str) -> pq.ParquetFile:
    """An open parquet file."""
    system, path = locate_file(address)
    refuse_special(system, path)
    try:
        return pq.ParquetFile(system.open_input_file(path), page_checksum_verification=True)
    except FAULTS as error:
        raise DataError(f"{source}: not readable as parquet: {one_line(error)}") from None


def find_image_column(schema: pa.Schema, columns: TableColumns) -> TableColumns:
    """The columns, with that of the images chosen by its type where no name is a usual one."""
    if columns.image:
        return columns
    # Hugging Face writes an image as a struct of its bytes and its path.
    structs = (field.name for field in schema if pa.types.is_struct(field.type) and "bytes" in field.type.names)
    name = next(structs, None)
    return columns.with_image(name) if name else columns


def find_repeated_names(tables: Sequence[ParquetTable]) -> set[str]:
    """The ids, or paths, that several rows with stored images have: their bytes tell whether they are one image."""
    counts: Counter[str] = Counter()
    for table in tables:
        for _, names in read_names(table):
            counts.update(name for name in names if name)
    return {name for name, count in counts.items() if count > 1}


def read_names(table: ParquetTable) -> Iterator[tuple[int, Sequence[str | None]]]:
    """What may name a stored image, its id or else its path: batch by batch, each with the number of its first row."""
    if not table.is_stored:
        return
    if table.columns.id:
        for start, batch in table.iterate([table.columns.id], ROWS):
            yield start, name_cells(batch.column(0).to_pylist())
    elif table.has_paths:
        for start, batch in table.iterate([f"{table.columns.image}.path"], ROWS):
            yield start, pc.struct_field(batch.column(0), "path").to_pylist()


def identify_images(table: ParquetTable, repeated: set[str]) -> dict[int, Hashable]:
    """Row → name and hash, of the stored images whose name is ``repeated``."""
    names = {row: name for start, part in read_names(table) for row, name in enumerate(part, start) if name in repeated}
    identities: dict[int, Hashable] = {}
    column = f"{table.columns.image}.bytes" if table.has_struct else str(table.columns.image)
    # The bytes of all images are read only where names repeat.
    for start, batch in table.iterate([column], STORED_ROWS) if names else ():
        values = pc.struct_field(batch.column(0), "bytes") if table.has_struct else batch.column(0)
        for row, content in enumerate(values, start):
            if row in names and content.is_valid:
                # A path names nothing outside its own file.
                owner = "" if table.columns.id else table.name
                identities[row] = (owner, names[row], hashlib.sha256(content.as_py()).hexdigest())
    return identities


def find_paths(table: ParquetTable) -> dict[int, str]:
    """Row → path, of the images that have a path and no bytes."""
    paths: dict[int, str] = {}
    if not table.has_paths:
        return paths
    image = str(table.columns.image)
    with open_parquet(table.address, table.name) as file:
        start = 0
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            # The file's statistics tell, as a rule; otherwise the bytes must be read.
            if count_nulls(group, f"{image}.bytes") != 0:
                values = file.read_row_group(number, columns=[f"{image}.bytes", f"{image}.path"])[image]
                absent = pc.is_null(pc.struct_field(values, "bytes")).to_pylist()
                named = enumerate(pc.struct_field(values, "path").to_pylist())
                paths |= {start + row: path for row, path in named if absent[row] and path}
            start += group.num_rows
    return paths


def count_nulls(group: pq.RowGroupMetaData, name: str) -> int | None:
    """How many values of a column are null; None where the file does not say."""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == name:
            known = column.statistics is not None and column.statistics.has_null_count
            return int(column.statistics.null_count) if known else None
    return None


def add_parquet_rows(pairs: PairTable, table: ParquetTable, root: PathOrUri, repeated: set[str]) -> None:
    """Add the rows of a file. ``repeated`` are the names that several images may have: their bytes are compared."""
    for name in table.columns.list_unused(table.schema.names):
        pairs.left_out.unused[f"column {name}"] = 1
    if table.is_stored:
        # The fingerprint of the data set then includes the file's size: an image has none of its own.
        pairs.containers[table.name] = table.size
    identities, paths = identify_images(table, repeated), find_paths(table)
    names = table.columns.list_names() + ([] if table.is_stored else [str(table.columns.image)])
    reader, file_split = RowReader(pairs, table.columns), split_of_file(table.name)
    for start, batch in table.iterate(names, ROWS):
        cells, rows = batch.to_pydict(), range(start, start + len(batch))
        if table.is_stored:
            stored = [in_parquet(table.name, str(table.columns.image), row) for row in rows]
            named = zip(locate_paths(table, [paths.get(row, "") for row in rows], root), stored, strict=True)
            locations = [path or row for path, row in named]
        else:
            locations = locate_paths(table, read_paths(cells, table.columns), root)
        block = RowBlock(
            cells,
            rows,
            table.describe,
            locations,
            [identities.get(row, location) for row, location in zip(rows, locations, strict=True)],
            make_namer(table, cells, rows, locations),
            [file_split] * len(rows),
        )
        reader.add(block)


def make_namer(
    table: ParquetTable, cells: dict[str, list[Any]], rows: range, locations: Sequence[str]
) -> Callable[[int], tuple[str, ...]]:
    """A function that gives the image of a row its possible ids, besides that of its column."""
    if not table.is_stored:
        return lambda index: (locations[index],)
    if table.columns.id:
        # Numbers may begin anew in every file.
        ids = name_cells(cells[table.columns.id])
        return lambda index: (f"{table.stem}/{rows[index] if ids[index] is None else ids[index]}",)
    # Without an id, the file and row number are one.
    return lambda index: (f"{table.stem}/{rows[index]}",)


def locate_paths(table: ParquetTable, paths: Sequence[str], root: PathOrUri) -> list[str]:
    """The locations of images that rows name by their paths; empty where a row names none."""
    path = PurePosixPath(table.name)
    folder = str(path.parent) if path.name.lower() == FOLDER_TABLE and str(path.parent) != "." else ""
    return [join_below(folder, location) for location in strip_roots(paths, root)]
