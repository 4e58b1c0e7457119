"""Tables that name their images by path: in text form, JSON, JSON lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from xmrank.datasets.columns import TableColumns, find_columns, require_columns
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.reader_settings import ColumnsConfig
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.table_rows import RowBlock, RowReader, name_cells
from xmrank.runtime.paths import PathOrUri
from xmrank.runtime.redaction import redact_uri


class ColumnSettings(Protocol):
    """The settings of readers of tables."""

    @property
    def columns(self) -> ColumnsConfig:
        """Names of columns."""

    @property
    def split_field(self) -> str:
        """Column of the splits."""


@dataclass(frozen=True)
class PathTable:
    """The sound rows of a file.

    Attributes:
        source: what messages call the file.
        unit: what a row is called: line, entry.
        cells: the values of each column; all of one length.
        numbers: the number of every row.
        damaged: number and reason of every other row.
    """

    source: str
    unit: str
    cells: Mapping[str, Sequence[Any]]
    numbers: Sequence[int]
    damaged: Sequence[tuple[int, str]]

    def describe(self, number: int) -> str:
        """What messages call a row."""
        return f"{self.source}, {self.unit} {number}"


def add_path_table(
    pairs: PairTable,
    table: PathTable,
    settings: ColumnSettings,
    root: PathOrUri,
    *,
    split_of: Callable[[str], str | None] | None = None,
    folder: str = "",
    usual_image: str = "",
) -> None:
    """Add the rows of a table.

    Args:
        pairs: gets images and captions.
        table: the rows.
        settings: names of columns.
        root: folder of the images.
        split_of: location → its split, for tables that name none; None: the one in the name of the file, if any.
        folder: that the paths in the table start from, below the root.
        usual_image: column of the images where it exists and the user names no other.

    Raises:
        ConfigError: a flag names a column that the table does not have.
        DataError: no column of images or captions, or rows that contradict each other.
    """
    header = list(table.cells)
    columns = find_columns(header, settings.columns, settings.split_field, table.source)
    if usual_image in header and not settings.columns.image:
        columns = columns.with_image(usual_image)
    # Damaged rows may be all there is; then they are what is wrong.
    if header or not table.damaged:
        require_columns(columns, header, table.source)
    for number, reason in table.damaged:
        pairs.left_out.add_row(table.describe(number), reason, kind="a damaged row")
    for name in columns.list_unused(header):
        pairs.left_out.unused[f"column {name}"] = 1
    if not table.numbers:
        return
    locations = [join_below(folder, path) for path in strip_roots(read_paths(table.cells, columns), root)]
    file_split = split_of_file(table.source)
    # A signed URI is a secret and differs from day to day; the id is the path alone.
    remote = not isinstance(root, Path)
    block = RowBlock(
        table.cells,
        table.numbers,
        table.describe,
        locations,
        locations,
        lambda index: (redact_uri(locations[index], "") if remote else locations[index],),
        [split_of(location) for location in locations] if split_of else [file_split] * len(locations),
    )
    RowReader(pairs, columns).add(block)


def read_paths(cells: Mapping[str, Sequence[Any]], columns: TableColumns) -> list[str]:
    """The path of each row's image, with the folder that another column names; empty where a row names none."""
    files = [path if isinstance(path, str) else "" for path in cells[str(columns.image)]]
    if columns.folder is None:
        return files
    folders = [name or "" for name in name_cells(cells[columns.folder])]
    return [join_path(folder, file) for folder, file in zip(folders, files, strict=True)]


def join_path(folder: str, file: str) -> str:
    """Folder and file as one path; the folder alone where it is the whole path already."""
    if not file or folder == file or folder.endswith(f"/{file}"):
        return folder
    return join_below(folder, file)


def join_below(folder: str, path: str) -> str:
    """A path below a folder; empty where there is no path."""
    return f"{folder.rstrip('/')}/{path}" if folder and path else path


def strip_root(path: str, root: PathOrUri) -> str:
    """A path as it is written, or, when it is absolute and below the root, what follows the root."""
    return strip_roots([path], root)[0]


def strip_roots(paths: Sequence[str], root: PathOrUri) -> list[str]:
    """Some paths, as ``strip_root`` makes them."""
    prefix = f"{str(root).rstrip('/')}/"
    return [path.removeprefix(prefix) for path in paths]
