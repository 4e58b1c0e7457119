"""Region features in the layout of SCAN, VSE∞ and SGRAF: for each split an array of regions and a file of captions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmrank.embed.loading import load_array
from xmrank.embed.row_ids import RowIds
from xmrank.embed.token_parts import TokenPart
from xmrank.runtime.errors import DataError

FLAG = "--import-regions"
CAPTIONS_EACH = 5
"""Captions of an image; the layout has no other number."""
SPLIT_NAMES = {"train": ("train",), "val": ("dev", "val"), "test": ("test", "testall")}
"""The store's splits, and what files call them; of several, the first that is there."""


@dataclass(frozen=True)
class RegionFolder:
    """A folder of region features.

    Attributes:
        ids: of images and captions, split after split; an image's id is the name of its file's split and its number.
        parts: the regions of every split's images.
        files: by a name for the manifest.
    """

    ids: RowIds
    parts: list[TokenPart]
    files: dict[str, Path]


def read_regions(folder: Path) -> RegionFolder:
    """The region features and captions in a folder.

    Raises:
        DataError: no such folder or no features in it; a split without captions, with an empty one, or with another
            number of them than five an image; features of different widths.
    """
    names = find_splits(folder)
    image_ids: list[str] = []
    splits: list[str] = []
    texts: list[str] = []
    parts: list[TokenPart] = []
    files: dict[str, Path] = {}
    for split, name in names.items():
        regions, captions = folder / f"{name}_ims.npy", folder / f"{name}_caps.txt"
        files |= {f"{name}_ims": regions, f"{name}_caps": captions}
        lines = read_captions(captions)
        parts.append(load_regions(regions, len(lines)))
        texts += lines
        image_ids += [f"{name}/{number}" for number in range(len(parts[-1].items))]
        splits += [split] * len(parts[-1].items)
    widths = {part.name: part.values.shape[1] for part in parts}
    if len(set(widths.values())) > 1:
        raise DataError(f"{folder}: regions of different widths: {widths} ({FLAG})")
    owner = np.repeat(np.arange(len(image_ids)), CAPTIONS_EACH).tolist()
    caption_ids = [f"{image_ids[row]}#{number % CAPTIONS_EACH}" for number, row in enumerate(owner)]
    return RegionFolder(RowIds(image_ids, splits, caption_ids, owner, texts), parts, files)


def find_splits(folder: Path) -> dict[str, str]:
    """Split → what the folder's files call it."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder ({FLAG})")
    found = {}
    for split, names in SPLIT_NAMES.items():
        existing = [name for name in names if (folder / f"{name}_ims.npy").is_file()]
        if existing:
            found[split] = existing[0]
    if not found:
        raise DataError(f"{folder}: no train_ims.npy, dev_ims.npy or test_ims.npy in it ({FLAG})")
    return found


def read_captions(path: Path) -> list[str]:
    """The captions in a file, one a line.

    Raises:
        DataError: no such file, not UTF-8, or an empty line.
    """
    try:
        # Split at newlines only: captions may hold other separators that splitlines knows.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, though {path.name.replace('_caps.txt', '_ims.npy')} is there") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text in UTF-8 ({FLAG})") from None
    texts = [line.strip() for line in lines]
    for number, text in enumerate(texts, start=1):
        if not text:
            raise DataError(f"{path}: line {number} is empty, expected a caption ({FLAG})")
    return texts


def load_regions(path: Path, captions: int) -> TokenPart:
    """The regions of a split's images: one row an image, or one a caption, with each image repeated five times.

    Raises:
        DataError: another number of rows, or repeated rows that differ.
    """
    values = load_array(path, FLAG)
    rows = len(values) if values.ndim else 0
    if captions == CAPTIONS_EACH * rows:
        return TokenPart.from_arrays(values, None, path.name)
    if captions != rows or rows % CAPTIONS_EACH:
        raise DataError(
            f"{path}: {rows} rows for {captions} captions, expected {CAPTIONS_EACH} captions a row ({FLAG})"
        )
    # All of the first image's rows must be equal: else there is one caption an image, which is another layout.
    if any(not np.array_equal(values[0], values[number]) for number in range(1, CAPTIONS_EACH)):
        raise DataError(
            f"{path}: as many rows as captions, but the first {CAPTIONS_EACH} are different images ({FLAG})"
        )
    return TokenPart.from_arrays(values, None, path.name, every=CAPTIONS_EACH)
