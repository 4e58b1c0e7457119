"""What readers collect images and captions in: broken items are listed, splits and labels completed, tables made."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from xmrank.config import EmbedConfig
from xmrank.datasets.dataset import CAPTIONS, IMAGES, Dataset
from xmrank.datasets.locations import leads_outside
from xmrank.datasets.splits import drawn_splits
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import Place

TEXT_LIMIT = 1 << 20
"""Bytes of a caption, or of a file of captions, above which it is taken for something else."""
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
LABEL_LIMIT = 2**31
HALVES = re.compile("[\ud800-\udfff]")
"""What JSON can say, and UTF-8 cannot: halves of characters that need two."""


@dataclass
class ImageEntry:
    """One image as a reader meets it: where it is, and its captions."""

    location: str
    split: str | None
    labels: list[int | str]
    captions: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class PairTable:
    """Images and captions in the order of reading.

    Args:
        source: the file or folder that messages name.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.images: dict[str, ImageEntry] = {}
        self.left_out: list[dict[str, Any]] = []
        self.containers: dict[str, int] = {}

    def image(self, image_id: str, location: str, split: str | None, labels: Iterable[int | str] = ()) -> None:
        """Add an image.

        Raises:
            DataError: its id stands twice, or its location lies outside of the root.
        """
        if image_id in self.images:
            raise DataError(f'{self.source}: image id "{image_id}" stands more than once')
        if leads_outside(location):
            raise DataError(f'{self.source}: image "{location}" lies outside of the image folder')
        self.images[image_id] = ImageEntry(location, split, list(labels))

    def captions(self, image_id: str, texts: Iterable[object]) -> None:
        """Add captions of an image; those that are none are listed."""
        image = self.images[image_id]
        for text in texts:
            number = len(image.captions) + len(image.faults)
            if fault := text_fault(text):
                image.faults.append(f"caption {number} {fault}")
            else:
                image.captions.append((f"{image_id}#{number}", str(text).strip()))

    def leave_out(self, image_id: str, reason: str, captions: int = 0) -> None:
        """List an image that is not taken in."""
        self.left_out.append({"image_id": image_id, "reason": reason, "captions": captions})

    def dataset(self, name: str, root: Place, config: EmbedConfig) -> Dataset:
        """The two tables. Images without any caption are left out, and broken captions are.

        Raises:
            DataError: more of the images or captions are broken than ``--max-broken`` allows; images of which only
                some have a split.
        """
        self.leave_out_faults()
        self.refuse_too_many(config.max_broken)
        splits, labels = self.splits(config.held_out), self.labels()
        rows = dict(zip(self.images, splits, strict=True))
        captions = [(c, i, text, rows[i]) for i, image in self.images.items() for c, text in image.captions]
        locations = [image.location for image in self.images.values()]
        images = pa.table([pa.array(list(rows), pa.string()), locations, splits, labels], schema=IMAGES)
        columns = list(zip(*captions, strict=True)) or [()] * len(CAPTIONS)
        table = pa.table([pa.array(column, pa.string()) for column in columns], schema=CAPTIONS)
        return Dataset(name, root, images, table, self.left_out, self.containers)

    def leave_out_faults(self) -> None:
        """List broken captions under their images, and take out the images that have no other."""
        for image_id, image in list(self.images.items()):
            if not image.captions:
                del self.images[image_id]
                self.leave_out(image_id, image.faults[0] if image.faults else "has no caption", len(image.faults))
            elif image.faults:
                self.leave_out(image_id, f"{image.faults[0]} (the image stays)", len(image.faults))

    def refuse_too_many(self, max_broken: float) -> None:
        """Refuse data of which too much is left out."""
        lost = sum(entry["image_id"] not in self.images for entry in self.left_out)
        broken = sum(entry["captions"] for entry in self.left_out)
        captions = broken + sum(len(image.captions) for image in self.images.values())
        if lost > max_broken * (lost + len(self.images)) or broken > max_broken * captions:
            first, more = self.left_out[0], len(self.left_out) - 1
            raise DataError(
                f'{self.source}: image "{first["image_id"]}": {first["reason"]}'
                f" ({f'{more} more like it; ' if more else ''}--max-broken {max_broken})"
            )

    def splits(self, held_out: float) -> list[str]:
        """The images' splits, drawn when none is known."""
        splits = [image.split for image in self.images.values()]
        known = [split for split in splits if split is not None]
        if not known:
            return drawn_splits(list(self.images), held_out)
        if len(known) < len(splits):
            image_id = next(i for i, image in self.images.items() if image.split is None)
            raise DataError(f'{self.source}: image "{image_id}" has no split, others have one, like "{known[0]}"')
        return known

    def labels(self) -> list[list[int]]:
        """The images' labels; where one is a name, all are taken as names, numbered in alphabetical order."""
        labels: list[list[int | str]] = [image.labels for image in self.images.values()]
        if any(isinstance(label, str) for row in labels for label in row):
            names = sorted({str(label) for row in labels for label in row})
            numbers = {name: number for number, name in enumerate(names)}
            return [[numbers[str(label)] for label in row] for row in labels]
        for image_id, row in zip(self.images, labels, strict=True):
            if any(not -LABEL_LIMIT <= int(label) < LABEL_LIMIT for label in row):
                raise DataError(f'{self.source}: image "{image_id}": label {row[0]}, expected a 32-bit number')
        return [[int(label) for label in row] for row in labels]


def text_fault(text: object) -> str:
    """What keeps a value from being a caption; empty when nothing does."""
    if not isinstance(text, str):
        return f"is no text but {type(text).__name__}"
    if not text.strip():
        return "is empty"
    if len(text) > TEXT_LIMIT:
        return f"is longer than {TEXT_LIMIT} characters"
    if HALVES.search(text):
        return "holds half a character"
    return ""


def lines(content: bytes) -> Sequence[str]:
    """The lines of a text that say something.

    Raises:
        DataError: it is not UTF-8, or longer than ``TEXT_LIMIT``.
    """
    if len(content) > TEXT_LIMIT:
        raise DataError("is too long")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8") from None
    return [line for line in text.splitlines() if line.strip()]


def labels_of(value: object) -> list[int | str]:
    """The labels in a field: a number, a name, a list of them, or nothing."""
    if isinstance(value, list | tuple):
        return [label for each in value for label in labels_of(each)]
    if value is None or value == "" or isinstance(value, bool | float | dict):
        return []
    text = str(value).strip()
    return [int(text)] if text.removeprefix("-").isdecimal() else [text]


def texts_of(value: object) -> list[object]:
    """The captions in a field: a text, a list of them, objects with the text under raw, text or caption, or none."""
    if isinstance(value, list | tuple):
        return [text for each in value for text in texts_of(each)]
    if isinstance(value, dict):
        return texts_of(next((value[name] for name in ("raw", "text", "caption") if name in value), None))
    return [] if value is None else [value]
