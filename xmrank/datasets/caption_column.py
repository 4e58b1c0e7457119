"""The captions of all images while they are read: as columns, because there are many of them."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from xmrank.datasets.caption_texts import TEXT_LIMIT, begins_like_list, text_fault


class SoundCaption(NamedTuple):
    """A caption that can be used: row of its image, number among the image's captions, text, and its own id or None."""

    row: int
    number: int
    text: str
    own_id: str | None


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
        self._owners += [row] * len(texts)
        self._texts += texts
        self._numbers += [number] * len(texts)
        self._own_ids += own_ids or [None] * len(texts)

    def sift(self, images: int) -> tuple[list[SoundCaption], list[BrokenCaption]]:
        """The sound and the broken captions of so many images, in the order of reading."""
        # Most data have none of these, and looking for them in each text would take longer than all the rest.
        closely = self._holds_halves() or self.list_cells > 0
        counts, sound, broken = [0] * images, [], []
        for index, (row, text) in enumerate(zip(self._owners, self._texts, strict=True)):
            # Broken captions count, so that the ids of the others do not change when one is repaired.
            number = counts[row]
            counts[row] += 1
            if type(text) is str and not closely and len(text) <= TEXT_LIMIT and (stripped := text.strip()):
                sound.append(SoundCaption(row, number, stripped, self._own_ids[index]))
            elif fault := self._find_fault(text):
                broken.append(BrokenCaption(row, number, fault, self._locate(index)))
            else:
                sound.append(SoundCaption(row, number, str(text).strip(), self._own_ids[index]))
        return sound, broken

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
