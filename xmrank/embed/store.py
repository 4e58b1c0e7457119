"""The embedding store: two memory-mapped arrays, two tables of rows, and the encoder they came from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.runtime.directory import Manifest, read_manifest
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_file
from xmrank.runtime.paths import Place, place

STAGE = "embed"
UNIT_TOLERANCE = 1e-3
"""How far a stored embedding's length may lie from 1: float16 rounding stays below."""


@dataclass(frozen=True)
class EmbeddingStore:
    """An open store.

    Attributes:
        image: [images, d], float16 or float32, unit length, memory-mapped.
        text: [captions, d], likewise.
        images: row, image_id, split, location, bytes, sha256, labels.
        captions: row, caption_id, image_id, image_row, split, text (null where it is not known).
        encoder: name, pretrained, weights_hash, preprocessing, dimensions.
        manifest: of the stage that made it.
    """

    directory: Path
    image: np.ndarray
    text: np.ndarray
    images: pa.Table
    captions: pa.Table
    encoder: dict[str, Any]
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path, *, verify: bool = False) -> "EmbeddingStore":
        """Open the store in a directory.

        Args:
            directory: where it is.
            verify: compare every file with its checksum, which reads all of it.

        Raises:
            DataError: the directory holds no finished store, or not what its manifest says.
        """
        manifest = read_manifest(directory, STAGE)
        if verify:
            verify_outputs(directory, manifest)
        return cls(
            directory,
            # Copy on write: torch takes such a map without a copy, and nothing here writes.
            np.load(directory / "image.npy", mmap_mode="c", allow_pickle=False),
            np.load(directory / "text.npy", mmap_mode="c", allow_pickle=False),
            pq.read_table(directory / "image.parquet"),
            pq.read_table(directory / "text.parquet"),
            json.loads((directory / "encoder.json").read_text()),
            manifest,
        )

    def verify(self) -> None:
        """Compare every file with the checksum that the manifest has of it.

        Raises:
            DataError: names the first that is not there, or not as it was written.
        """
        verify_outputs(self.directory, self.manifest)

    @property
    def fingerprint(self) -> str:
        """The stage's fingerprint."""
        return self.manifest.fingerprint

    @property
    def dimensions(self) -> int:
        """The length d of an embedding."""
        return int(self.image.shape[1])

    @property
    def image_of_caption(self) -> np.ndarray:
        """The image row of every caption row, int64 [captions]."""
        return self.captions["image_row"].to_numpy().astype(np.int64)

    def splits(self) -> list[str]:
        """The names of the splits, sorted."""
        return sorted(set(self.images["split"].to_pylist()))

    def image_rows(self, split: str) -> np.ndarray:
        """The image rows of a split, int64, ascending."""
        return np.flatnonzero(self.images["split"].to_numpy() == split)

    def caption_rows(self, split: str) -> np.ndarray:
        """The caption rows of a split, int64, ascending; a caption belongs to its image's split."""
        return np.flatnonzero(self.captions["split"].to_numpy() == split)

    def gather(self, side: Literal["image", "text"], rows: np.ndarray) -> np.ndarray:
        """Copies of chosen embeddings, float32 [rows, d], in the order of the rows; only they are read from disk."""
        return (self.image if side == "image" else self.text)[rows].astype(np.float32)

    @property
    def images_root(self) -> Place | None:
        """The folder of the pictures, or its URI, at the time of embedding; None for imported embeddings."""
        root = self.manifest.settings.get("images_root")
        return place(root) if root else None


def verify_outputs(directory: Path, manifest: Manifest) -> None:
    """Raise DataError when a file of a store is not there, or not as it was written."""
    for name, entry in manifest.outputs.items():
        path = directory / name
        if not path.is_file():
            raise DataError(f"{path}: is not there, though the manifest names it")
        if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            raise DataError(f"{path}: is not what was written: its checksum differs from the manifest's")


def encoder_name(encoder: dict[str, Any]) -> str:
    """An encoder in a few words."""
    weights = encoder.get("weights_hash")
    detail = f"weights {weights[:12]}" if weights else f"{encoder.get('dimensions')} dimensions"
    return f"{encoder.get('name')} ({detail})"


def check_embeddings(array: np.ndarray, name: str, *, block: int = 65536) -> None:
    """Check that an array can be a side of a store.

    Args:
        array: [items, d].
        name: what the messages call it.

    Raises:
        DataError: another shape or type, or a row with NaN, infinity or nothing but zeros.
    """
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"{name}: shape {list(array.shape)}, expected [items, dimensions]")
    if array.dtype.kind != "f":
        raise DataError(f"{name}: type {array.dtype}, expected floating-point numbers")
    for start in range(0, len(array), block):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused as such
            part = np.asarray(array[start : start + block], np.float32)
        for fault, rows in (("NaN or infinity", ~np.isfinite(part).all(1)), ("only zeros", ~part.any(1))):
            if rows.any():
                first, more = start + int(np.argmax(rows)), int(rows.sum()) - 1
                raise DataError(f"{name}: row {first} holds {fault}" + (f" ({more} more like it)" if more else ""))


def normalised(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The rows at unit length, computed in float32; rows that have it within ``UNIT_TOLERANCE`` stay as they are."""
    wide = np.asarray(array, np.float32)
    # Summed in float64: squares of small or large numbers are beyond float32.
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide, dtype=np.float64)).astype(np.float32)[:, None]
    lengths[np.abs(lengths - 1) < UNIT_TOLERANCE] = 1
    return (wide / lengths).astype(dtype)
