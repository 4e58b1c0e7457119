"""The captions of all images while they are read: as columns, because there are many of them."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xmrank.datasets.caption_texts import TEXT_LIMIT, begins_like_list, text_fault


@dataclass(frozen=True)
class SoundCaptions:
    """The captions that can be used, as columns.

    Attributes:
        rows: of their images.
        numbers: among the captions of their image.
        texts: without spaces around them.
        own_ids: those of the data, or None.
    """

    rows: Sequence[int]
    numbers: Sequence[int]
    texts: Sequence[str]
    own_ids: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.rows)

    def sort_by_row(self) -> "SoundCaptions":
        """The captions image by image; those of one image stay as they were read."""
        order = np.argsort(np.asarray(self.rows, np.int64), kind="stable").tolist()
        columns = (self.rows, self.numbers, self.texts, self.own_ids)
        return SoundCaptions(*([column[index] for index in order] for column in columns))  # type: ignore[index]


class BrokenCaption(NamedTuple):
    """A caption that cannot: row of its image, number among the image's captions, why, and its line or entry."""

    row: int
    number: int
    fault: str
    where: str

    @property
    def reason(self) -> str:
        """The fault with its particulars."""
        return f"caption {self.number} {self.fault}" + (f" in {self.where}" if self.where else "")


class CaptionColumn:
    """Captions in the order of reading, each with the row of its image.

    Attributes:
        list_cells: how many cells were lists written as text.
    """

    def __init__(self) -> None:
        self.list_cells = 0
        self._owners: list[int] = []
        self._texts: list[object] = []
        self._own_ids: list[str | None] = []
        self._numbers: list[int] = []
        # The first caption of each file, and how the file's lines or entries are named.
        self._starts: list[int] = []
        self._describe: list[Callable[[int], str]] = []

    def begin_source(self, describe: Callable[[int], str]) -> None:
        """From here on, the line or entry of a number is what ``describe`` calls it."""
        self._starts.append(len(self._texts))
        self._describe.append(describe)

    def add(self, row: int, texts: Sequence[object], number: int = 0, own_ids: Sequence[str | None] = ()) -> None:
        """Add captions of an image, broken ones too; ``number`` is that of their line or entry."""
        self.extend([row] * len(texts), texts, [number] * len(texts), own_ids)

    def extend(
        self, rows: Sequence[int], texts: Sequence[object], numbers: Sequence[int], own_ids: Sequence[str | None] = ()
    ) -> None:
        """Add captions of several images, each with its row and number."""
        self._owners += rows
        self._texts += texts
        self._numbers += numbers
        self._own_ids += own_ids or [None] * len(texts)

    def sift(self, images: int) -> tuple[SoundCaptions, list[BrokenCaption]]:
        """The sound and the broken captions of so many images, in the order of reading."""
        # Broken captions count, so that the ids of the others do not change when one is repaired.
        counts, numbers = [0] * images, []
        for row in self._owners:
            numbers.append(counts[row])
            counts[row] += 1
        if (texts := self._strip_all()) is not None:
            return SoundCaptions(self._owners, numbers, texts, self._own_ids), []
        kept, broken = [], []
        for index, (row, text) in enumerate(zip(self._owners, self._texts, strict=True)):
            if fault := self._find_fault(text):
                broken.append(BrokenCaption(row, numbers[index], fault, self._locate(index)))
            else:
                kept.append(index)
        texts = [str(self._texts[index]).strip() for index in kept]
        rows, own_ids = [self._owners[index] for index in kept], [self._own_ids[index] for index in kept]
        return SoundCaptions(rows, [numbers[index] for index in kept], texts, own_ids), broken

    def _strip_all(self) -> list[str] | None:
        """All texts without spaces around them, if all are sound; looking at each by itself takes much longer."""
        if self.list_cells or set(map(type, self._texts)) - {str} or self._holds_halves():
            return None
        texts = [text.strip() for text in self._texts]  # type: ignore[attr-defined]
        return texts if all(texts) and max(map(len, texts), default=0) <= TEXT_LIMIT else None

    def _find_fault(self, text: object) -> str:
        """Why a text is no caption; empty where it is one."""
        # Among lists, a text that only begins like one was cut off.
        if self.list_cells and begins_like_list(text):
            return "begins like a list and is none"
        return text_fault(text)

    def _holds_halves(self) -> bool:
        """Whether a text holds half a character, which no encoder takes."""
        try:
            "".join(text for text in self._texts if isinstance(text, str)).encode()
        except UnicodeEncodeError:
            return True
        return False

    def _locate(self, index: int) -> str:
        """The line or entry of a caption; empty where the reader knows none."""
        part = bisect_right(self._starts, index) - 1
        return self._describe[part](self._numbers[index]) if part >= 0 else ""
