"""Reader of Hugging Face data sets: parquet files or image folders, on disk, at a URI or on the hub."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.datasets.columns import TableColumns, find_columns, require_columns
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.hub import download_dataset, is_hub_name
from xmrank.datasets.image_folder import METADATA, read_image_folder
from xmrank.datasets.locations import in_parquet
from xmrank.datasets.pair_table import PairTable, labels_of, texts_of
from xmrank.datasets.reader_settings import HuggingFaceSettings
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.uris import (
    FAULTS,
    file_sizes,
    is_folder,
    list_files,
    locate_file,
    one_line,
    refuse_special,
    suffix_of,
)
from xmrank.datasets.webdataset import read_tars
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri, below, resolve_uri

FOLDER_TABLE = "metadata.parquet"
"""An image folder's table: the paths in it start at its own folder."""
ROWS = 8192
"""Rows of captions in memory at a time."""


def read_huggingface(settings: HuggingFaceSettings, max_broken: float) -> Dataset:
    """The data set in ``--images``: a folder, a URI, or a name on the hub (owner/name, owner/name@revision).

    Parquet files hold images (bytes, or paths) and captions, also as caption_0, caption_1, ... or lists; without any,
    an image folder has metadata.csv or metadata.jsonl with file_name, and a folder of tars is read as WebDataset.
    The split is the column ``--split-field``, else the one in the name of the file or its folder.

    Raises:
        ConfigError: a flag names a column that a file does not have.
        DataError: no such folder, no file of a known form in it, a broken file, or a download that failed.
    """
    root = find_root(settings.images)
    files = list_files(root)
    # metadata.parquet is a table of paths like any other parquet file; metadata.csv and .jsonl are read below.
    tables = [name for name in files if suffix_of(name) == ".parquet" and PurePosixPath(name).name not in METADATA]
    if tables:
        return read_parquets(root, tables, settings, max_broken)
    if any(PurePosixPath(name).name in METADATA for name in files):
        return read_image_folder(root, files, settings, max_broken)
    if tars := [name for name in files if suffix_of(name) == ".tar"]:
        return read_tars(root, tars, settings, max_broken)
    raise DataError(f"{root}: expected .parquet files, or images with {' or '.join(METADATA)} (--images)")


def find_root(images: Path | str) -> PathOrUri:
    """The folder that ``--images`` names, downloaded when it is a name on the hub."""
    root = resolve_uri(images)
    return download_dataset(str(images)) if not is_folder(root) and is_hub_name(str(images)) else root


def read_parquets(root: PathOrUri, tables: Sequence[str], settings: HuggingFaceSettings, max_broken: float) -> Dataset:
    """The rows of parquet files; an image that is stored in them stays there."""
    pairs = PairTable(root.name if isinstance(root, Path) else root)
    addresses = [below(root, name) for name in tables]
    for name, address, size in zip(tables, addresses, file_sizes(addresses), strict=True):
        # pyarrow would say something about a footer.
        if (size or 0) == 0:
            raise DataError(f"{name}: an empty file, expected parquet")
        with open_parquet(address, name) as file:
            schema = file.schema_arrow
            columns = find_columns(schema.names, settings.columns, settings.split_field, name)
            columns = find_image_column(schema, columns)
            require_columns(columns, schema.names, name)
            # The fingerprint of the data set then includes the file's size: an image has none of its own.
            if is_stored(schema, columns, name):
                pairs.containers[name] = size or 0
            for row, values in read_rows(file, columns, name):
                add_row(pairs, name, row, values, columns)
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


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
    return TableColumns(next(structs, None), columns.captions, columns.split, columns.id, columns.labels)


def is_stored(schema: pa.Schema, columns: TableColumns, source: str) -> bool:
    """Whether the images are in the file; False: it holds their paths."""
    kind = schema.field(str(columns.image)).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return False
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if pa.types.is_struct(kind) and "bytes" in kind.names:
        return True
    raise DataError(f"{source}: the column {columns.image} holds {kind}, expected images as bytes, or paths")


def read_rows(file: pq.ParquetFile, columns: TableColumns, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows' numbers and values, without the images' bytes."""
    names = columns.list_names()
    if not is_stored(file.schema_arrow, columns, source):
        names.append(str(columns.image))
    start = 0
    try:
        for batch in file.iter_batches(ROWS, columns=names):
            yield from enumerate(batch.to_pylist(), start)
            start += len(batch)
    except FAULTS as error:
        raise DataError(f"{source}: broken after row {start}: {one_line(error)}") from None


def add_row(pairs: PairTable, source: str, row: int, values: dict[str, Any], columns: TableColumns) -> None:
    """Add one row: an image, or more captions of one with the same id."""
    # The image column is read only where it holds paths: bytes stay in the file until they are embedded.
    path = values.get(str(columns.image))
    location = in_parquet(source, str(columns.image), row) if path is None else str(path)
    if PurePosixPath(source).name == FOLDER_TABLE:
        location = str(PurePosixPath(source).parent / location)
    image_id = values.get(columns.id) if columns.id else None
    # Without an id, the file and row number are one.
    image_id = f"{PurePosixPath(source).with_suffix('')}/{row}" if image_id is None else str(image_id)
    if str(columns.image) in values and not path:
        raise DataError(f"{source}: row {row}: nothing under {columns.image}")
    # Further rows of the same id add captions only.
    if image_id not in pairs.images:
        split = values[columns.split] if columns.split else split_of_file(source)
        labels = labels_of(values[columns.labels]) if columns.labels else ()
        pairs.add_image(image_id, location, None if split is None else str(split), labels)
    pairs.add_captions(image_id, [text for name in columns.captions for text in texts_of(values[name])])
