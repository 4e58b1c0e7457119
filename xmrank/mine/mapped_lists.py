"""Candidate lists that are larger than memory: unpacked once from their parquet file, then mapped from disk."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from xmrank.mine.candidate_lists import COLUMNS, CandidateLists
from xmrank.runtime.files import parquet_errors, read_batches, write_array, write_rows
from xmrank.runtime.storage import local_copy

IN_MEMORY_BYTES = 1 << 30
"""Lists up to this size, unpacked, are kept in memory."""
BATCH = 8192
"""Lists that are unpacked at once."""


def open_lists(path: Path, cache: Path) -> CandidateLists:
    """The lists of a file, in memory or, when they are large, mapped: batches then read what they need from disk.

    Args:
        path: what ``CandidateLists.write`` wrote.
        cache: folder for the unpacked arrays, about 12 bytes an item; arrays that an earlier call unpacked are used.

    Raises:
        DataError: no such file.
    """
    if not path.is_file() or unpacked_bytes(path) <= IN_MEMORY_BYTES:
        return CandidateLists.read(path, verify=False)
    folder = cache / path.stem
    unpack_lists(path, folder)
    names = ("queries", "offsets", *COLUMNS)
    return CandidateLists(**{name: np.load(local_copy(array_path(folder, name)), mmap_mode="r") for name in names})


def unpacked_bytes(path: Path) -> int:
    """The size of a file's columns without compression."""
    with parquet_errors(path):
        metadata = pq.read_metadata(local_copy(path))
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def unpack_lists(path: Path, folder: Path) -> None:
    """Write the arrays that do not exist yet. In memory are a few lists at a time, and one number for each list."""
    # The first length is 0: its cumulative sum is where list 0 begins.
    queries, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for batch in read_batches(path, BATCH, ["query", "candidates"]):
        queries.append(batch["query"].to_numpy())
        lengths.append(batch["candidates"].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
    offsets = np.cumsum(np.concatenate(lengths))
    # Written only where missing: a run that was killed goes on with what it had.
    for name, array in (("queries", np.concatenate(queries)), ("offsets", offsets)):
        if not array_path(folder, name).exists():
            write_array(array_path(folder, name), array)
    for name, dtype in COLUMNS.items():
        if not array_path(folder, name).exists():
            write_rows(array_path(folder, name), read_column(path, name), (int(offsets[-1]),), np.dtype(dtype))


def read_column(path: Path, name: str) -> Iterator[np.ndarray]:
    """A list column's items, a few lists at a time."""
    for batch in read_batches(path, BATCH, [name]):
        yield batch[name].flatten().to_numpy(zero_copy_only=False)


def array_path(folder: Path, name: str) -> Path:
    """The file of an unpacked array."""
    return folder / f"{name}.npy"
