"""Reader of Hugging Face data sets: parquet files or image folders, on disk, at a URI or on the hub."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.config import EmbedConfig
from xmrank.datasets.columns import TableColumns, find_columns, refuse_without
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.hub import download, is_hub_name
from xmrank.datasets.image_folder import METADATA, read_image_folder
from xmrank.datasets.locations import in_parquet
from xmrank.datasets.pair_table import PairTable, labels_of, texts_of
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.uris import FAULTS, is_folder, list_files, located, one_line, sizes, suffix
from xmrank.datasets.webdataset import read_tars
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import Place, below, place

FOLDER_TABLE = "metadata.parquet"
"""An image folder's table: the paths in it start at its own folder."""
ROWS = 8192
"""Rows of captions in memory at a time."""


def read_huggingface(config: EmbedConfig) -> Dataset:
    """The data set in ``--images``: a folder, a URI, or a name on the hub (owner/name, owner/name@revision).

    Parquet files hold images (bytes, or paths) and captions, also as caption_0, caption_1, ... or lists; without any,
    an image folder has metadata.csv or metadata.jsonl with file_name, and a folder of tars is read as WebDataset.
    The split is the column ``--split-field``, else what the file or its folder is named after.

    Raises:
        ConfigError: a column that a flag names and a file has not.
        DataError: no such folder, nothing in it that is known, a broken file, or a download that failed.
    """
    root = find_root(config.images or "")
    files = list_files(root)
    tables = [name for name in files if suffix(name) == ".parquet" and PurePosixPath(name).name not in METADATA]
    if tables:
        return read_parquets(root, tables, config)
    if any(PurePosixPath(name).name in METADATA for name in files):
        return read_image_folder(root, files, config)
    if tars := [name for name in files if suffix(name) == ".tar"]:
        return read_tars(root, tars, "huggingface", config)
    raise DataError(f"{root}: expected .parquet files, or images with {' or '.join(METADATA)} (--images)")


def find_root(images: Path | str) -> Place:
    """The folder that ``--images`` means, downloaded when it is a name on the hub."""
    root = place(images)
    return download(str(images)) if not is_folder(root) and is_hub_name(str(images)) else root


def read_parquets(root: Place, tables: Sequence[str], config: EmbedConfig) -> Dataset:
    """The rows of parquet files; an image that is stored in them stays there."""
    pairs = PairTable(root.name if isinstance(root, Path) else root)
    addresses = [below(root, name) for name in tables]
    for name, address, size in zip(tables, addresses, sizes(addresses), strict=True):
        if (size or 0) == 0:
            raise DataError(f"{name}: an empty file, expected parquet")
        with open_parquet(address, name) as file:
            columns = image_column(file.schema_arrow, find_columns(file.schema_arrow.names, config, name))
            refuse_without(columns, file.schema_arrow.names, name)
            if is_stored(file.schema_arrow, columns, name):
                pairs.containers[name] = size or 0
            for row, values in rows(file, columns, name):
                add_row(pairs, name, row, values, columns)
    return pairs.dataset("huggingface", root, config)


def open_parquet(address: str, source: str) -> pq.ParquetFile:
    """An open parquet file."""
    system, path = located(address)
    try:
        return pq.ParquetFile(system.open_input_file(path))
    except FAULTS as error:
        raise DataError(f"{source}: not readable as parquet: {one_line(error)}") from None


def image_column(schema: pa.Schema, columns: TableColumns) -> TableColumns:
    """The columns, with the images' found by its type where its name says nothing."""
    if columns.image:
        return columns
    found = (field.name for field in schema if pa.types.is_struct(field.type) and "bytes" in field.type.names)
    return TableColumns(next(found, None), columns.captions, columns.split, columns.id, columns.labels)


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


def rows(file: pq.ParquetFile, columns: TableColumns, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows' numbers and values, without the images' bytes."""
    names = columns.named()
    stored = is_stored(file.schema_arrow, columns, source)
    names += [] if stored else [str(columns.image)]
    start = 0
    try:
        for batch in file.iter_batches(ROWS, columns=names):
            yield from enumerate(batch.to_pylist(), start)
            start += len(batch)
    except FAULTS as error:
        raise DataError(f"{source}: broken after row {start}: {one_line(error)}") from None


def add_row(pairs: PairTable, source: str, row: int, values: dict[str, Any], columns: TableColumns) -> None:
    """Take in one row: an image, or further captions of one that has the same id."""
    path = values.get(str(columns.image))
    location = in_parquet(source, str(columns.image), row) if path is None else str(path)
    if PurePosixPath(source).name == FOLDER_TABLE:
        location = str(PurePosixPath(source).parent / location)
    image_id = values.get(columns.id) if columns.id else None
    image_id = f"{PurePosixPath(source).with_suffix('')}/{row}" if image_id is None else str(image_id)
    if str(columns.image) in values and not path:
        raise DataError(f"{source}: row {row}: nothing under {columns.image}")
    if image_id not in pairs.images:
        split = values[columns.split] if columns.split else split_of_file(source)
        labels = labels_of(values[columns.labels]) if columns.labels else ()
        pairs.image(image_id, location, None if split is None else str(split), labels)
    pairs.captions(image_id, [text for name in columns.captions for text in texts_of(values[name])])
