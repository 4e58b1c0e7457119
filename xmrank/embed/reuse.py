"""Embeddings copied from another store (``--reuse``): of the same images and captions, by the same encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import DataError

SAME_ENCODER = ("architecture", "weights_hash", "preprocessing", "precision")


@dataclass(frozen=True)
class KnownImages:
    """Finds an image's row by the hash of its bytes, with 16 bytes of memory for each image.

    Attributes:
        store: with the rows.
        keys: the first 64 bits of every hash, uint64, ascending.
        rows: the row of every key.
    """

    store: EmbeddingStore
    keys: np.ndarray
    rows: np.ndarray

    @classmethod
    def from_directory(cls, directory: Path) -> "KnownImages":
        """The images of the store in a directory."""
        store = EmbeddingStore.open(directory, verify=False)
        # 64 bits instead of 64 characters: the hashes of a million images take 16 MB.
        keys = np.array([shorten_hash(digest) for digest in store.images["sha256"].to_pylist()], np.uint64)
        rows = np.argsort(keys, kind="stable")
        return cls(store, keys[rows], rows)

    def find_row(self, sha256: str) -> int | None:
        """The first row of an image with this hash, or None."""
        wanted = np.uint64(shorten_hash(sha256))
        index = int(np.searchsorted(self.keys, wanted))
        # Several hashes may have the same first bits: the whole hash decides.
        while index < len(self.keys) and self.keys[index] == wanted:
            row = int(self.rows[index])
            if self.store.images["sha256"][row].as_py() == sha256:
                return row
            index += 1
        return None


def shorten_hash(sha256: str) -> int:
    """The first 64 bits of a hash."""
    return int(sha256[:16], 16)


def find_texts(store: EmbeddingStore, texts: pa.Array) -> pa.Array:
    """The store's row of each text, int64; null where it has none."""
    return pc.index_in(texts, store.captions["text"].combine_chunks()).cast(pa.int64())


def refuse_own_output(directory: Path, output: Path) -> None:
    """Raise DataError when ``--reuse`` names the output itself, before anything there is overwritten."""
    if directory.resolve() == output.resolve():
        raise DataError(f"--reuse {directory}: is the --output itself; give the new store another --output")


def open_reusable(directory: Path, encoder: dict[str, Any], dtype: str) -> EmbeddingStore:
    """The store of ``--reuse``, after checking that its embeddings are those that this encoder would make.

    Args:
        directory: of the store.
        encoder: what the new store will record about its encoder.
        dtype: number format of the new store.

    Raises:
        DataError: not a finished store, an imported one, or one of another encoder or number format.
    """
    store = EmbeddingStore.open(directory)
    # The embeddings must be those that this encoder would make, not just similar ones.
    names = SAME_ENCODER if encoder.get("architecture") else ("name", *SAME_ENCODER)
    for name in names:
        if store.encoder.get(name) != encoder.get(name):
            raise DataError(f"--reuse {directory}: another encoder: its {name} is {store.encoder.get(name)!r}")
    if store.image.dtype != dtype:
        raise DataError(f"--reuse {directory}: holds {store.image.dtype}, expected {dtype} (--dtype)")
    return store
