"""Which split an item belongs to, where no field says so."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath

USUAL = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""The names that folders and files give to splits → xmrank's."""
SHARDED = re.compile(r"(.+?)-\d+-of-\d+")
"""Hugging Face's own form: any split, then the number of the file."""


def split_of_folder(location: str) -> str | None:
    """The split that the outermost folder of a location is named after (``train``, ``val2017``); None without one."""
    folder, slash, _ = location.removeprefix("./").partition("/")
    return USUAL.get(re.sub(r"[\W\d_]+$", "", folder.lower())) if slash else None


@lru_cache(maxsize=4096)
def split_of_file(location: str) -> str | None:
    """The split of all that is in a file, by its folders and name (``data/train-00000-of-00002.parquet``), or None."""
    path = PurePosixPath(location)
    for folder in path.parts[:-1]:
        if split := split_of_folder(f"{folder}/x"):
            return split
    if sharded := SHARDED.fullmatch(path.stem):
        return USUAL.get(sharded[1].lower(), sharded[1])
    words = re.split(r"[\W\d_]+", path.stem.lower())
    return next((USUAL[word] for word in words if word in USUAL), None)


def draw_splits(image_ids: Sequence[str], held_out: float) -> list[str]:
    """A split for every image of data that names none.

    Args:
        image_ids: the images; each one's split depends on its id alone, so it stays when others come or go.
        held_out: the share of ``val``, and of ``test``; the rest is ``train``.
    """
    splits = []
    for image_id in image_ids:
        draw = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8]) / 2**64
        splits.append("test" if draw < held_out else "val" if draw < 2 * held_out else "train")
    return splits
