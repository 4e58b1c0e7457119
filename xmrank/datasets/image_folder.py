"""Hugging Face's image folders: images, and metadata files that name them and say their captions."""

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from xmrank.datasets.columns import TableColumns, find_columns, require_columns
from xmrank.datasets.csv_table import read_table, table_rows
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.pair_table import PairTable, labels_of, texts_of
from xmrank.datasets.reader_settings import HuggingFaceSettings
from xmrank.datasets.splits import split_of_folder
from xmrank.datasets.uris import read_file
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri, below

METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"


def read_image_folder(
    root: PathOrUri, files: Sequence[str], settings: HuggingFaceSettings, max_broken: float
) -> Dataset:
    """The images that the metadata files among ``files`` name, each below the folder of its metadata.

    Raises:
        ConfigError: a flag names a column that a file does not have.
        DataError: a metadata file without file_name or captions, or a row that does not fit, by its line.
    """
    pairs = PairTable(str(PurePosixPath(str(root)).name))
    for name in files:
        # Each split's folder may have its own metadata file.
        if PurePosixPath(name).name in METADATA:
            read_rows = read_csv_rows if name.endswith(".csv") else read_json_rows
            header, rows = read_rows(below(root, name), name)
            columns = find_metadata_columns(header, settings, name)
            for line, row in rows:
                add_row(pairs, name, line, row, columns)
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


def read_csv_rows(address: str, source: str) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """Header and rows of a metadata.csv."""
    header, delimiter, text = read_table(address, source)
    return header, table_rows(text, delimiter, header, source)


def read_json_rows(address: str, source: str) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """The fields of the first line, and the rows of a metadata.jsonl."""
    content = read_file(address, "--images")
    rows = []
    for line, text in enumerate(content.splitlines(), 1):
        # JSON lines may end with an empty line.
        if text.strip():
            try:
                row = json.loads(text.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                raise DataError(f"{source}, line {line}: not JSON") from None
            if not isinstance(row, dict):
                raise DataError(f"{source}, line {line}: expected an object with {FILE_NAME} and a caption")
            rows.append((line, row))
    return list(rows[0][1]) if rows else [], iter(rows)


def find_metadata_columns(header: list[str], settings: HuggingFaceSettings, source: str) -> TableColumns:
    """The columns of a metadata file; the images are under file_name unless ``--columns.image`` says otherwise."""
    columns = find_columns(header, settings.columns, settings.split_field, source)
    if FILE_NAME in header and not settings.columns.image:
        columns = TableColumns(FILE_NAME, columns.captions, columns.split, columns.id, columns.labels)
    require_columns(columns, header, source)
    return columns


def add_row(pairs: PairTable, source: str, line: int, row: dict[str, Any], columns: TableColumns) -> None:
    """Add one row; rows with the same image are captions of one image."""
    file = row.get(str(columns.image))
    if not file or not isinstance(file, str):
        raise DataError(f"{source}, line {line}: nothing under {columns.image}")
    # Paths start at the folder of the metadata file, not at the root.
    location = str(PurePosixPath(source).parent / file)
    image_id = str(row[columns.id]) if columns.id and row.get(columns.id) is not None else location
    if image_id not in pairs.images:
        split = row.get(columns.split) if columns.split else split_of_folder(location)
        pairs.add_image(image_id, location, str(split) if split else None, labels_of(row.get(columns.labels or "")))
    pairs.add_captions(image_id, [text for name in columns.captions for text in texts_of(row.get(name))])
