"""Collects the images and captions of a reader: lists broken items, completes splits and labels, makes the tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from xmrank.datasets.dataset import CAPTIONS, IMAGES, Dataset
from xmrank.datasets.locations import leads_outside
from xmrank.datasets.splits import draw_splits
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import HALF_CHARACTER
from xmrank.runtime.paths import PathOrUri

TEXT_LIMIT = 1 << 20
"""Characters of a caption, or bytes of a file of captions, above which it is taken for something else."""
LABEL_LIMIT = 2**31


@dataclass
class ImageEntry:
    """One image as a reader finds it, its captions as (id, text), and what is wrong with captions that were dropped."""

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

    def add_image(self, image_id: str, location: str, split: str | None, labels: Iterable[int | str] = ()) -> None:
        """Add an image.

        Raises:
            DataError: another image has the same id, or the location leads out of the root.
        """
        if image_id in self.images:
            raise DataError(f'{self.source}: image id "{image_id}" occurs more than once')
        if leads_outside(location):
            raise DataError(f'{self.source}: image "{location}" lies outside of the image folder')
        self.images[image_id] = ImageEntry(location, split, list(labels))

    def add_captions(self, image_id: str, texts: Iterable[object]) -> None:
        """Add captions of an image; broken ones are remembered as faults."""
        image = self.images[image_id]
        for text in texts:
            # Broken captions count, so that the ids of the others do not change when one is repaired.
            number = len(image.captions) + len(image.faults)
            if fault := text_fault(text):
                image.faults.append(f"caption {number} {fault}")
            else:
                image.captions.append((f"{image_id}#{number}", str(text).strip()))

    def leave_out(self, image_id: str, reason: str, captions: int = 0) -> None:
        """Record an image that is not in the data set, or that lost captions."""
        self.left_out.append({"image_id": image_id, "reason": reason, "captions": captions})

    def make_dataset(self, name: str, root: PathOrUri, held_out: float, max_broken: float) -> Dataset:
        """The two tables, without broken captions and without images that have no other.

        Args:
            name: of the reader.
            root: folder that the locations are relative to.
            held_out: fraction of the images that becomes val, and as much test, where no image has a split.
            max_broken: fraction of the images, and of the captions, that may be left out.

        Raises:
            DataError: more of the images or captions are broken than ``max_broken``; only some images have a split.
        """
        self.leave_out_faults()
        self.refuse_too_many(max_broken)
        splits, labels = self.choose_splits(held_out), self.number_labels()
        split_of_image = dict(zip(self.images, splits, strict=True))
        captions = []
        for image_id, image in self.images.items():
            captions += [(caption_id, image_id, text, split_of_image[image_id]) for caption_id, text in image.captions]
        locations = [image.location for image in self.images.values()]
        images = pa.table([pa.array(list(self.images), pa.string()), locations, splits, labels], schema=IMAGES)
        # Without any caption, zip returns no columns.
        columns = list(zip(*captions, strict=True)) or [()] * len(CAPTIONS)
        table = pa.table([pa.array(column, pa.string()) for column in columns], schema=CAPTIONS)
        return Dataset(name, root, images, table, self.left_out, self.containers)

    def leave_out_faults(self) -> None:
        """Record broken captions under their images, and remove the images that have no other."""
        # A copy of the items: images are deleted on the way.
        for image_id, image in list(self.images.items()):
            if not image.captions:
                del self.images[image_id]
                self.leave_out(image_id, image.faults[0] if image.faults else "has no caption", len(image.faults))
            elif image.faults:
                self.leave_out(image_id, f"{image.faults[0]} (the image stays)", len(image.faults))

    def refuse_too_many(self, max_broken: float) -> None:
        """Raise DataError when more is left out than ``max_broken``."""
        # Entries of images that are still in the table are about captions only.
        lost = sum(entry["image_id"] not in self.images for entry in self.left_out)
        broken = sum(entry["captions"] for entry in self.left_out)
        captions = broken + sum(len(image.captions) for image in self.images.values())
        if lost > max_broken * (lost + len(self.images)) or broken > max_broken * captions:
            first, others = self.left_out[0], len(self.left_out) - 1
            more = f"{others} more like it; " if others else ""
            raise DataError(
                f'{self.source}: image "{first["image_id"]}": {first["reason"]} ({more}--max-broken {max_broken})'
            )

    def choose_splits(self, held_out: float) -> list[str]:
        """The images' splits, drawn by the hash of their ids when no image has one."""
        splits = [image.split for image in self.images.values()]
        known = [split for split in splits if split is not None]
        if not known:
            return draw_splits(list(self.images), held_out)
        # Drawing splits for the rest would mix them with splits that were made on purpose.
        if len(known) < len(splits):
            image_id = next(i for i, image in self.images.items() if image.split is None)
            raise DataError(f'{self.source}: image "{image_id}" has no split, others have one, like "{known[0]}"')
        return known

    def number_labels(self) -> list[list[int]]:
        """The images' labels as numbers; if any is a name, all are names, numbered in alphabetical order."""
        labels: list[list[int | str]] = [image.labels for image in self.images.values()]
        if any(isinstance(label, str) for row in labels for label in row):
            names = sorted({str(label) for row in labels for label in row})
            numbers = {name: number for number, name in enumerate(names)}
            return [[numbers[str(label)] for label in row] for row in labels]
        # The tables hold 32-bit integers.
        for image_id, row in zip(self.images, labels, strict=True):
            if any(not -LABEL_LIMIT <= int(label) < LABEL_LIMIT for label in row):
                raise DataError(f'{self.source}: image "{image_id}": label {row[0]}, expected a 32-bit number')
        return [[int(label) for label in row] for row in labels]


def text_fault(text: object) -> str:
    """Why a value cannot be a caption; empty when it can."""
    if not isinstance(text, str):
        return f"is not text but {type(text).__name__}"
    if not text.strip():
        return "is empty"
    if len(text) > TEXT_LIMIT:
        return f"is longer than {TEXT_LIMIT} characters"
    if HALF_CHARACTER.search(text):
        return "holds half a character"
    return ""


def text_lines(content: bytes) -> Sequence[str]:
    """The lines of a text that are not blank.

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
    # Numbers in text form, as csv has them, are numbers.
    return [int(text)] if text.removeprefix("-").isdecimal() else [text]


def texts_of(value: object) -> list[object]:
    """The captions in a field: a text, a list of them, objects with the text under raw, text or caption, or none."""
    if isinstance(value, list | tuple):
        return [text for each in value for text in texts_of(each)]
    if isinstance(value, dict):
        # Objects are as Karpathy's JSON or COCO have them.
        return texts_of(next((value[name] for name in ("raw", "text", "caption") if name in value), None))
    return [] if value is None else [value]
