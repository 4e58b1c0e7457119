"""Splits: the one table of their names, the split that a folder or file names, and splits that are drawn."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath

USUAL = {
    "train": "train", "training": "train", "restval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "development": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""The names that data give to splits → xmrank's. On COCO it is usual to train on restval too."""
SHARDED = re.compile(r"(.+?)-\d+-of-\d+")
"""Hugging Face's own form: any split, then the number of the file."""


@lru_cache(maxsize=4096)
def usual_split(name: str) -> str:
    """xmrank's name of a split (``dev``, ``Validation`` and ``val2017`` are val); a name of no known split stays."""
    return known_split(name) or name.strip()


def known_split(name: str) -> str | None:
    """xmrank's name of a split, with digits and signs behind it ignored; None for a name of no known split."""
    return USUAL.get(re.sub(r"[\W\d_]+$", "", name.strip().lower()))


def split_of_folder(location: str) -> str | None:
    """The split in the name of a location's outermost folder (``train``, ``val2017``), or None."""
    folder, slash, _ = location.removeprefix("./").partition("/")
    return known_split(folder) if slash else None


@lru_cache(maxsize=4096)
def split_of_file(location: str) -> str | None:
    """The split in the name of a file or its folders (``data/train-00000-of-00002.parquet``), or None."""
    path = PurePosixPath(location)
    for folder in path.parts[:-1]:
        if split := split_of_folder(f"{folder}/x"):
            return split
    # Any name may be a split in this form: unsupervised-00000-of-00001.
    if sharded := SHARDED.fullmatch(path.stem):
        return usual_split(sharded[1])
    words = re.split(r"[\W\d_]+", path.stem.lower())
    return next((USUAL[word] for word in words if word in USUAL), None)


def draw_splits(image_ids: Sequence[str], held_out: float) -> list[str]:
    """A split for every image of data without splits.

    Args:
        image_ids: the images; each one's split depends on its id alone, so it stays when others come or go.
        held_out: the fraction that becomes ``val``, and as much ``test``; the rest is ``train``.
    """
    splits = []
    for image_id in image_ids:
        # The first 64 bits of the hash as a number from 0 to 1.
        draw = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8]) / 2**64
        if draw < held_out:
            splits.append("test")
        elif draw < 2 * held_out:
            splits.append("val")
        else:
            splits.append("train")
    return splits
