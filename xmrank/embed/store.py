"""The embedding store: two arrays, two tables of rows, the encoder they came from, and perhaps tokens."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from xmrank.embed.row_ids import check_dimensions, make_row_ids
from xmrank.embed.token_store import NO_TOKENS, Side, TokenArray, check_token_count, open_tokens
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_parquet, sha256_json, sha256_table
from xmrank.runtime.manifest import MANIFEST, Manifest, read_manifest
from xmrank.runtime.paths import PathOrUri, as_path, resolve_uri
from xmrank.runtime.storage import local_copy
from xmrank.runtime.verification import read_outputs, verify_outputs

STAGE = "embed"
UNIT_TOLERANCE = 1e-3
"""How far a stored embedding's length may be from 1: the rounding of float16 stays below."""


@dataclass(frozen=True)
class EmbeddingStore:
    """Embeddings of images and captions, and which row is which.

    Attributes:
        path: the store's directory; None for a store in memory.
        image: [images, d], float16 or float32, unit length; memory-mapped where the store is a directory.
        text: [captions, d], likewise.
        images: row, image_id, split; from a data set also location, bytes, sha256, labels.
        captions: row, caption_id, image_id, image_row, split, text (null where it is not known).
        encoder: name, pretrained, weights_hash, preprocessing, dimensions.
        manifest: of the stage that made it, or of the arrays it was made from.
        token_arrays: of the sides that have tokens.
    """

    path: Path | None
    image: np.ndarray
    text: np.ndarray
    images: pa.Table
    captions: pa.Table
    encoder: dict[str, Any]
    manifest: Manifest
    token_arrays: dict[Side, TokenArray] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> "EmbeddingStore":
        """Open the store in a directory.

        Args:
            path: the directory that ``xmrank embed`` wrote, or its URI.
            verify: compare every file with its checksum, unless it was verified before and has not been written to.
                False: for the workers of a stage that has verified the store.

        Raises:
            DataError: the directory holds no finished store, or not what its manifest says.
        """
        directory = as_path(path)
        manifest = read_outputs(directory, STAGE) if verify else read_manifest(directory, STAGE)
        # Copy on write: torch takes such a map without a copy, and nothing here writes.
        image = np.load(local_copy(directory / "image.npy"), mmap_mode="c", allow_pickle=False)
        text = np.load(local_copy(directory / "text.npy"), mmap_mode="c", allow_pickle=False)
        return cls(
            directory,
            image,
            text,
            read_parquet(directory / "image.parquet"),
            read_parquet(directory / "text.parquet"),
            json.loads((directory / "encoder.json").read_text()),
            manifest,
            open_tokens(directory, manifest.outputs, {"image": len(image), "text": len(text)}),
        )

    @classmethod
    def from_arrays(
        cls,
        image: np.ndarray,
        text: np.ndarray,
        *,
        caption_image: Sequence[int] | np.ndarray | None = None,
        image_ids: Sequence[object] | None = None,
        caption_ids: Sequence[object] | None = None,
        splits: Sequence[str] | None = None,
        normalise: bool = True,
        tokens: Mapping[Side, TokenArray] | None = None,
    ) -> "EmbeddingStore":
        """A store in memory, of embeddings from any model.

        Args:
            image: [images, d], floating point.
            text: [captions, d], floating point.
            caption_image: the image row of every caption; None: image by image, the same number of captions for each.
            image_ids, caption_ids: one for each row; None: the row numbers.
            splits: one for each image ("train", "val", "test"); None: all are "train".
            normalise: bring the rows to unit length. False: they must have it, and the arrays are used without a copy.
            tokens: of the images ("image"), of the captions ("text"), or of both.

        Raises:
            DataError: arrays or tokens whose shapes do not fit, rows with NaN, infinity, only zeros or (without
                ``normalise``) another length than 1, ids that occur twice, or a caption of an unknown image.

        >>> image = np.eye(2, dtype=np.float32)
        >>> text = np.array([[3, 1], [2, 1], [0, 5]], np.float32)
        >>> store = EmbeddingStore.from_arrays(image, text, caption_image=[0, 0, 1], splits=["train", "test"])
        >>> store.text[2].tolist(), store.caption_rows("train").tolist()
        ([0.0, 1.0], [0, 1])
        """
        check_embeddings(image, "image")
        check_embeddings(text, "text")
        check_dimensions(image, "image", text, "text")
        ids = make_row_ids(
            len(image),
            len(text),
            caption_image=caption_image,
            image_ids=image_ids,
            caption_ids=caption_ids,
            splits=splits,
        )
        if normalise:
            dtype = stored_dtype(image, text)
            image, text = to_unit_length(image, dtype), to_unit_length(text, dtype)
        else:
            check_unit_length(image, "image")
            check_unit_length(text, "text")
        images, captions = ids.image_table(), ids.caption_table()
        for side, array in (tokens or {}).items():
            check_token_count(array, len(image if side == "image" else text), f"{side} tokens")
        encoder = describe_imported(image.shape[1])
        manifest = describe_arrays(image, text, images, captions, tokens or {})
        return cls(None, image, text, images, captions, encoder, manifest, dict(tokens or {}))

    def verify(self) -> None:
        """Hash every file and compare it with its checksum in the manifest. A store in memory has none.

        Raises:
            DataError: a file is missing or has changed; names the first.
        """
        if self.path is not None:
            verify_outputs(self.path, self.manifest, afresh=True)

    @property
    def directory(self) -> Path:
        """The store's directory.

        Raises:
            DataError: the store is in memory.
        """
        if self.path is None:
            raise DataError("these embeddings are in memory; this needs a store that `xmrank embed` wrote")
        return self.path

    @property
    def label(self) -> str:
        """What messages call the store."""
        return "the embeddings" if self.path is None else str(self.path)

    @property
    def fingerprint(self) -> str:
        """sha256 over the contents and how they were made."""
        return self.manifest.fingerprint

    @property
    def dataset(self) -> str:
        """The name of the dataset, ``imported`` where it is not known."""
        return str(self.manifest.settings.get("dataset", "imported"))

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

    def gather(self, side: Side, rows: np.ndarray) -> np.ndarray:
        """Copies of chosen embeddings, float32 [rows, d], in the order of the rows; only they are read from disk."""
        return (self.image if side == "image" else self.text)[rows].astype(np.float32)

    @property
    def has_tokens(self) -> bool:
        """Whether at least one side has tokens."""
        return bool(self.token_arrays)

    def tokens(self, side: Side) -> TokenArray:
        """The tokens of the images, or of the captions.

        In a store where only the other side has tokens, each item has one: its vector.

        Raises:
            DataError: the store has no tokens at all.
        """
        if not self.has_tokens:
            raise DataError(f"{self.label}: {NO_TOKENS}")
        if side in self.token_arrays:
            return self.token_arrays[side]
        return TokenArray.from_vectors(self.image if side == "image" else self.text)

    @property
    def images_root(self) -> PathOrUri | None:
        """The folder of the images, or its URI, at the time of embedding; None for imported embeddings."""
        return find_images_root(self.manifest)


def find_images_root(manifest: Manifest) -> PathOrUri | None:
    """The folder of the images of a store, or its URI; None for imported embeddings.

    Raises:
        DataError: the manifest has something else there, which its fingerprint does not cover.
    """
    root = manifest.settings.get("images_root")
    if root is not None and (not isinstance(root, str) or "\0" in root):
        raise DataError(f"{MANIFEST} of the embeddings: images_root is {root!r}, expected a path or a URI")
    return resolve_uri(root) if root else None


def describe_imported(dimensions: int) -> dict[str, Any]:
    """The ``encoder`` of a store whose encoder is not known."""
    return {"name": "imported", "pretrained": None, "dimensions": int(dimensions), "weights_hash": None}


def describe_arrays(
    image: np.ndarray, text: np.ndarray, images: pa.Table, captions: pa.Table, tokens: Mapping[Side, TokenArray]
) -> Manifest:
    """The manifest of a store in memory. Its fingerprint is computed from the contents, as that of a stage is."""
    # The same parts as a stage's fingerprint: configuration, inputs and content hashes.
    hashes = {"image": sha256_array(image), "text": sha256_array(text)}
    hashes |= {"images": sha256_table(images), "captions": sha256_table(captions)}
    for side, array in sorted(tokens.items()):
        parts = {"tokens": array.values, "token_offsets": array.offsets, "token_scales": array.scales}
        hashes |= {f"{side}_{name}": sha256_array(part) for name, part in parts.items() if part is not None}
    return Manifest(
        STAGE,
        config={"imported": "arrays"},
        inputs={},
        outputs={name: {"sha256": digest} for name, digest in hashes.items()},
        counts={"images": len(image), "captions": len(text)},
        settings={"images_root": None, "dtype": image.dtype.name},
    ).with_fingerprint()


def sha256_array(array: np.ndarray) -> str:
    """sha256 over an array's shape, type and bytes."""
    content = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return sha256_json([list(array.shape), array.dtype.str, content])


def identify_encoder(encoder: dict[str, Any]) -> tuple[Any, Any]:
    """What two stores of one encoder have in common: its name, or the hash of its files, and that of its weights."""
    # A folder may have another name on another machine.
    return encoder.get("architecture") or encoder.get("name"), encoder.get("weights_hash")


def encoder_name(encoder: dict[str, Any]) -> str:
    """An encoder in a few words."""
    weights = encoder.get("weights_hash")
    detail = f"weights {weights[:12]}" if weights else f"{encoder.get('dimensions')} dimensions"
    return f"{encoder.get('name')} ({detail})"


def check_embeddings(array: np.ndarray, name: str, *, block: int = 65536) -> None:
    """Check that an array can hold the embeddings of a store.

    Args:
        array: [items, d].
        name: what the messages call it.
        block: rows that are checked at once.

    Raises:
        DataError: another shape or type, or a row with NaN, infinity or only zeros.
    """
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"{name}: shape {list(array.shape)}, expected [items, dimensions]")
    if array.dtype.kind != "f":
        raise DataError(f"{name}: type {array.dtype}, expected floating-point numbers")
    # A block at a time: the array may be larger than memory.
    for start in range(0, len(array), block):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused as such
            part = np.asarray(array[start : start + block], np.float32)
        for fault, rows in (("NaN or infinity", ~np.isfinite(part).all(1)), ("only zeros", ~part.any(1))):
            if rows.any():
                first, more = start + int(np.argmax(rows)), int(rows.sum()) - 1
                raise DataError(f"{name}: row {first} holds {fault}" + (f" ({more} more like it)" if more else ""))


def check_unit_length(array: np.ndarray, name: str) -> None:
    """Raise DataError when a row's length is not 1 within ``UNIT_TOLERANCE``."""
    lengths = row_lengths(np.asarray(array, np.float32))
    wrong = np.abs(lengths - 1) >= UNIT_TOLERANCE
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{name}: row {row} has length {lengths[row]:.4g}, expected 1 (or normalise=True)")


def row_lengths(wide: np.ndarray) -> np.ndarray:
    """The Euclidean length of every row of a float32 array [n, d], float32 [n]."""
    # Summed in float64: squares of small or large numbers are beyond float32.
    return np.sqrt(np.einsum("nd,nd->n", wide, wide, dtype=np.float64)).astype(np.float32)


def stored_dtype(*arrays: np.ndarray) -> np.dtype:
    """The number format of a store: float16 where all arrays have it, else float32."""
    return np.dtype(np.float16 if all(array.dtype == np.float16 for array in arrays) else np.float32)


def to_unit_length(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The rows at unit length, computed in float32; rows that have it within ``UNIT_TOLERANCE`` stay as they are."""
    wide = np.asarray(array, np.float32)
    lengths = row_lengths(wide)[:, None]
    # Dividing a unit vector by its rounded length would change its last digits for nothing.
    lengths[np.abs(lengths - 1) < UNIT_TOLERANCE] = 1
    return (wide / lengths).astype(dtype)
