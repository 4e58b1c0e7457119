"""The account of what a reader does not take: broken items, held against ``--max-broken``, and all else."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from xmrank.runtime.errors import DataError

VERBS = ("has ", "belongs ")


@dataclass
class LeftOut:
    """What a reader leaves out.

    Attributes:
        entries: one for each broken item or damaged row, with the reason, as the manifest lists them.
        reasons: how many entries there are of each kind of reason.
        unused: what is not broken and not taken either, such as files of other kinds, and how many there are.
        images, captions: how many of them the entries cost.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    images: int = 0
    captions: int = 0

    def add_image(self, image_id: str, reason: str, captions: int = 0, *, kind: str = "", stays: bool = False) -> None:
        """Record an image that is lost with so many captions, or one that stays and has lost them.

        Args:
            image_id: its id.
            reason: with its particulars.
            captions: how many are lost.
            kind: the reason without particulars, by which entries are counted.
            stays: whether only captions are lost.
        """
        shown = f"{reason} (the image stays)" if stays else reason
        self._add({"image_id": image_id, "reason": shown, "captions": captions}, kind or reason, int(not stays))

    def add_row(self, row: str, reason: str, *, images: int = 0, captions: int = 1, kind: str = "") -> None:
        """Record a damaged row or entry, named as messages name it, that says of no image what it is."""
        self._add({"row": row, "reason": reason, "captions": captions}, kind or reason, images)

    def _add(self, entry: dict[str, Any], kind: str, images: int) -> None:
        self.entries.append(entry)
        self.reasons[kind] += 1
        self.images += images
        self.captions += entry["captions"]

    def refuse_too_many(self, max_broken: float, images: int, captions: int, source: str) -> None:
        """Raise DataError when more is left out than ``max_broken`` allows.

        Args:
            max_broken: fraction of the images, and of the captions.
            images, captions: how many are not left out.
            source: what the message calls the data.
        """
        too_many_images = self.images > max_broken * (self.images + images)
        if too_many_images or self.captions > max_broken * (self.captions + captions):
            first, others = self.entries[0], len(self.entries) - 1
            what = first["row"] if "row" in first else f'{source}: image "{first["image_id"]}"'
            # "image 0 has no field id", but "line 2: nothing under path".
            comma = "" if "row" in first and first["reason"].startswith(VERBS) else ":"
            more = f"{others} more like it; " if others else ""
            raise DataError(f"{what}{comma} {first['reason']} ({more}--max-broken {max_broken})")
