"""Reader of tables in text form, one image and caption a row, and a folder of images."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from xmrank.datasets.columns import TableColumns, find_columns, require_columns
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.pair_table import PairTable, labels_of, text_fault
from xmrank.datasets.reader_settings import CsvSettings
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.uris import expand_pattern, find_image_folder, read_file
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri, below
from xmrank.runtime.redaction import redact_uri

DELIMITERS = (",", "\t", "|", ";")
Row = tuple[int, dict[str, str]]
"""The number of a row's line, and its cells by column."""


def read_csv(settings: CsvSettings, max_broken: float) -> Dataset:
    """The rows of ``--annotations`` (one file, or a pattern) with the images below ``--images``.

    The first line names the columns: the image's path and its caption or captions, and perhaps its split, id and
    labels. Rows with the same path are captions of one image. Values are separated by commas, tabs, | or ;.

    Raises:
        ConfigError: a flag names a column that the table does not have.
        DataError: no such file or folder, or a row that does not fit, by its line.
    """
    folder, names = expand_pattern(settings.annotations, "--annotations")
    root = find_image_folder(settings.images, settings.annotations.name)
    pairs = PairTable(settings.annotations.name)
    for name in names:
        header, delimiter, content = read_table(below(folder, name), name)
        columns = find_columns(header, settings.columns, settings.split_field, name)
        require_columns(columns, header, name)
        for line, row in table_rows(content, delimiter, header, name):
            add_row(pairs, row, columns, f"{name}, line {line}", root, split_of_file(name))
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


def read_table(address: str, source: str) -> tuple[list[str], str, str]:
    """A file's columns, delimiter and text; the delimiter is the one that occurs most often in the first line."""
    content = read_file(address, "--annotations")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{source}, line {line}: not UTF-8") from None
    # The header decides: captions are full of commas, names of columns are not.
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    header = [name.strip() for _, row in parse_rows(first, delimiter, source) for name in row]
    return header, delimiter, text


def parse_rows(text: str, delimiter: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, with the numbers of the lines that they end on."""
    # Tab-separated captions hold quotation marks that mean nothing.
    quotes = None if delimiter == "\t" else '"'
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quotechar=quotes,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,
        # Flickr30k's own table has spaces around |.
        skipinitialspace=delimiter == "|",
    )
    try:
        yield from ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}: not a table separated by {delimiter!r}: {error}") from None


def table_rows(text: str, delimiter: str, header: list[str], source: str) -> Iterator[Row]:
    """The rows below the header."""
    rows = parse_rows(text, delimiter, source)
    # The header is a row like the others to the parser.
    next(rows, None)
    for line, row in rows:
        # An unquoted comma in a caption, most often.
        if len(row) != len(header):
            raise DataError(f"{source}, line {line}: {len(row)} values, expected {len(header)}: {', '.join(header)}")
        yield line, dict(zip(header, (cell.strip() for cell in row), strict=True))


def add_row(
    pairs: PairTable, row: dict[str, str], columns: TableColumns, where: str, root: PathOrUri, file_split: str | None
) -> None:
    """Add one row: its image, unless an earlier row had it, and its captions."""
    # Tables may have been made where the images had absolute paths.
    location = strip_root(row[str(columns.image)], root)
    # A signed URI is a secret and differs from day to day; the id is the path alone.
    path = location if isinstance(root, Path) else redact_uri(location, "")
    image_id = row[columns.id] if columns.id else path
    split = row[columns.split] if columns.split else file_split
    for value, what in ((location, columns.image), (image_id, columns.id), (split, columns.split)):
        if value == "":
            raise DataError(f"{where}: nothing under {what}")
    # One row for each caption: the image is in every one of them.
    image = pairs.images.get(image_id)
    if image is None:
        pairs.add_image(image_id, location, split, labels_of(row[columns.labels]) if columns.labels else ())
    # The rows of an image must agree, or one of them is about another image.
    elif (image.location, image.split) != (location, split):
        other = f"{image.location} of the split {image.split}"
        raise DataError(f'{where}: image "{image_id}" is {location} of the split {split}, and {other} above')
    # One of several columns may be empty: not every image has as many captions.
    names = [name for name in columns.captions if row[name]] or columns.captions[:1]
    for name in names:
        texts = cell_texts(row[name])
        for text in texts:
            if fault := text_fault(text):
                raise DataError(f"{where}: the caption under {name} {fault}")
        pairs.add_captions(image_id, texts)


def strip_root(path: str, root: PathOrUri) -> str:
    """A path as it is written, or, when it is absolute and below the root, what follows the root."""
    return path.removeprefix(f"{str(root).rstrip('/')}/")


def cell_texts(cell: str) -> list[object]:
    """The captions in a cell: one, or a JSON list of several."""
    if not cell.startswith('["'):
        return [cell]
    try:
        return list(json.loads(cell))
    except (ValueError, RecursionError):  # a caption that only begins like a list
        return [cell]
