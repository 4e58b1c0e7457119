"""Rows of any table (text, JSON, parquet) become images and captions: one set of rules for all of them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmrank.datasets.caption_texts import cell_texts, is_missing
from xmrank.datasets.columns import TableColumns
from xmrank.datasets.labels import labels_of
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.splits import usual_split
from xmrank.runtime.errors import ConfigError, DataError

REJECTED = -1
"""Instead of an image's row: for a row of a table that is left out."""


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a file.

    Attributes:
        cells: the values of every column.
        numbers: the number of each row: its line, or its index in the file.
        describe: what messages call a row of such a number.
        locations: of each row's image; empty where the row names none.
        identities: what tells the images apart.
        name_image: row's index → the possible ids of its image, behind the one that the table has for it.
        splits: of each row's image, as its folder or the file's name says.
    """

    cells: Mapping[str, Sequence[Any]]
    numbers: Sequence[int]
    describe: Callable[[int], str]
    locations: Sequence[str]
    identities: Sequence[Hashable]
    name_image: Callable[[int], tuple[str, ...]]
    splits: Sequence[str | None]


class RowReader:
    """Adds the rows of one file to the images and captions of all.

    Args:
        pairs: gets them.
        columns: which of the file's columns hold what.
    """

    def __init__(self, pairs: PairTable, columns: TableColumns) -> None:
        self.pairs, self.columns = pairs, columns
        self._row_of_id: dict[str, int] = {}

    def add(self, block: RowBlock) -> None:
        """Add rows: the image of each, unless an earlier row had it, and its captions. Damaged rows are left out.

        Raises:
            ConfigError: an image has several ids in the column that the user named.
            DataError: rows that contradict each other.
        """
        columns, pairs = self.columns, self.pairs
        pairs.captions.begin_source(block.describe)
        ids = name_cells(block.cells[columns.id]) if columns.id else None
        splits = split_cells(block.cells[columns.split]) if columns.split else block.splits
        rows = []
        for index, (location, identity, split) in enumerate(
            zip(block.locations, block.identities, splits, strict=True)
        ):
            image_id = ids[index] if ids else None
            if not location or image_id == "" or split == "":
                missing = columns.image if not location else columns.id if image_id == "" else columns.split
                self._reject(block, block.numbers[index], str(missing))
                rows.append(REJECTED)
                continue
            row = pairs.row_of.get(identity)
            if row is None:
                row = self._add_image(block, index, image_id, split)
            elif ids or split != pairs.splits[row]:
                self._check_agreement(row, block, index, image_id, split)
            rows.append(row)
        if columns.labels:
            for row, cell in zip(rows, block.cells[columns.labels], strict=True):
                if row != REJECTED:
                    pairs.add_labels(row, labels_of(cell))
        self._add_captions(block, rows)

    def _add_captions(self, block: RowBlock, rows: Sequence[int]) -> None:
        """Add the captions of some rows; ``rows`` are those of their images."""
        columns, captions = self.columns, self.pairs.captions
        own_ids = name_cells(block.cells[columns.caption_id]) if columns.caption_id else None
        texts = [block.cells[name] for name in columns.captions]
        # Most tables: one column of texts. Row by row, that would take much longer.
        if len(texts) == 1 and REJECTED not in rows and are_plain(texts[0]):
            captions.extend(rows, texts[0], block.numbers, own_ids or ())
            return
        for index, row in enumerate(rows):
            if row != REJECTED:
                found = self._find_texts(texts, index)
                captions.add(row, found, block.numbers[index], [own_ids[index]] * len(found) if own_ids else ())

    def _reject(self, block: RowBlock, number: int, column: str) -> None:
        """Leave out a row without a value that it needs."""
        reason = f"nothing under {column}"
        self.pairs.left_out.add_row(block.describe(number), reason, kind=reason)

    def _add_image(self, block: RowBlock, index: int, image_id: str | None, split: str | None) -> int:
        """Add the image of a row; returns its own row."""
        names = block.name_image(index)
        if image_id is None:
            return self.pairs.add_image(block.identities[index], block.locations[index], names, split)
        # Two images of one id: one of them would be lost, or the captions of both mixed.
        if (other := self._row_of_id.get(image_id)) is not None:
            raise self._contradiction(block, index, other, split)
        row = self.pairs.add_image(block.identities[index], block.locations[index], (image_id, *names), split)
        self._row_of_id[image_id] = row
        return row

    def _check_agreement(self, row: int, block: RowBlock, index: int, image_id: str | None, split: str | None) -> None:
        """Compare a row's id and split with those that an earlier row gave its image."""
        if split != self.pairs.splits[row]:
            raise self._contradiction(block, index, row, split)
        name = self.pairs.names[row][0]
        if image_id is None or image_id == name:
            return
        if self.columns.id_is_named:
            raise ConfigError(
                f"--columns.id {self.columns.id}: {block.describe(block.numbers[index])}: image "
                f'{block.locations[index]} has the id "{image_id}", and "{name}" above; expected one'
            )
        # An id a row is not an image a row: the path is what tells images apart.
        self.pairs.ignore_first_names(f"column {self.columns.id} (it numbers rows; images have their paths as ids)")

    def _contradiction(self, block: RowBlock, index: int, row: int, split: str | None) -> DataError:
        """The error for a row whose id or split fits another row's image."""
        pairs, location = self.pairs, block.locations[index]
        image_id = pairs.names[row][0]
        other = f"{pairs.locations[row]} of the split {pairs.splits[row]}"
        where = block.describe(block.numbers[index])
        return DataError(f'{where}: image "{image_id}" is {location} of the split {split}, and {other} above')

    def _find_texts(self, columns: Sequence[Sequence[Any]], index: int) -> list[object]:
        """The captions of a row; one that is missing or empty where it has none."""
        texts: list[object] = []
        for cells in columns:
            cell = cells[index]
            if type(cell) is str and cell[:1] != "[":
                # One of several columns may be empty: not every image has as many captions.
                if cell:
                    texts.append(cell)
                continue
            found = cell_texts(cell)
            self.pairs.captions.list_cells += type(cell) is str and found != [cell]
            texts += found
        return texts or ["" if any(cells[index] == "" for cells in columns) else None]


def are_plain(cells: Sequence[object]) -> bool:
    """Whether all cells are texts that are no lists."""
    return all(type(cell) is str and cell[:1] != "[" for cell in cells)


def name_cells(cells: Sequence[object]) -> Sequence[str | None]:
    """The names in a column, as texts; None where there is none. Whole numbers that pandas made floats are whole."""
    if all(type(cell) is str for cell in cells):
        return cells  # type: ignore[return-value]
    return [name_in(cell) for cell in cells]


def name_in(cell: object) -> str | None:
    """The name in a cell."""
    if is_missing(cell):
        return None
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def split_cells(cells: Sequence[object]) -> Sequence[str | None]:
    """The splits in a column, by xmrank's names; None where there is none."""
    return [usual_split(name) if name else name for name in name_cells(cells)]
