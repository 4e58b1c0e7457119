"""Candidate lists: row numbers, labels and similarities, kept flat; their parquet file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import atomic_path, open_parquet_writer, read_batches, read_parquet
from xmrank.runtime.paths import as_path
from xmrank.runtime.verification import verify_file

COLUMNS = {"candidates": np.int32, "labels": np.float32, "similarity": np.float32}
"""Columns with a value for every item."""
ROW_GROUP = 1_048_576
"""Lists that are written at once: parquet's own default for a row group."""


@dataclass(frozen=True)
class CandidateLists:
    """Lists of candidates, one for each query, kept flat: all items of all lists in one array a column.

    Attributes:
        queries: rows of the query side of the store, int32 [lists].
        offsets: list i is ``candidates[offsets[i]:offsets[i + 1]]``, int64 [lists + 1].
        candidates: rows of the other side of the store, int32 [items].
        labels: relevance, float32 [items], at least 0.
        similarity: first-stage cosine, float32 [items].

    >>> lists = CandidateLists.from_matrices(
    ...     queries=np.array([0, 1]),
    ...     items=np.array([[5, 6, 7], [8, 9, 0]]),
    ...     labels=np.array([[0, 1, 0], [1, 0, 0]]),
    ...     similarity=np.array([[0.2, 0.4, 0.3], [0.6, 0.1, 0.0]]),
    ...     lengths=np.array([3, 2]),
    ... )
    >>> candidates, labels, similarity, mask = lists.pad_lists(np.array([1]))
    >>> candidates.tolist(), mask.tolist()
    ([[8, 9, 0]], [[True, True, False]])
    """

    queries: np.ndarray
    offsets: np.ndarray
    candidates: np.ndarray
    labels: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def lengths(self) -> np.ndarray:
        """Items of every list, int64 [lists]."""
        return np.diff(self.offsets)

    @classmethod
    def from_matrices(
        cls, queries: np.ndarray, items: np.ndarray, labels: np.ndarray, similarity: np.ndarray, lengths: np.ndarray
    ) -> "CandidateLists":
        """Lists from matrices [lists, width] of which the first ``lengths`` columns of each row count.

        Args:
            queries: [lists].
            items, labels, similarity: [lists, width].
            lengths: items of every list, int64 [lists].
        """
        # Row by row, the real items in order: the flat layout.
        real = np.arange(items.shape[1]) < lengths[:, None]
        return cls(
            queries.astype(np.int32),
            make_offsets(lengths),
            items[real].astype(np.int32),
            labels[real].astype(np.float32),
            similarity[real].astype(np.float32),
        )

    @classmethod
    def join(cls, parts: "list[CandidateLists]") -> "CandidateLists":
        """All lists of the parts, in order."""
        return cls(
            np.concatenate([part.queries for part in parts]),
            make_offsets(np.concatenate([part.lengths for part in parts])),
            np.concatenate([part.candidates for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.similarity for part in parts]),
        )

    @cached_property
    def longest(self) -> int:
        """Items of the longest list."""
        return int(self.lengths.max(initial=0))

    def pad_lists(
        self, rows: np.ndarray, width: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Some lists as matrices.

        Padding uses the longest list of the set, so that dropout does not depend on batch composition.

        Args:
            rows: which lists, int64 [B].
            width: n, at least the length of the longest of all lists; None: that length.

        Returns:
            candidates int64 [B, n] (0 where padded), labels float32 [B, n], similarity float32 [B, n] (0 where
            padded), mask bool [B, n] (True where real).
        """
        lengths = self.lengths[rows]
        columns = np.arange(self.longest if width is None else width)
        mask = columns < lengths[:, None]
        # Padding reads item 0, which is then set to zero.
        at = np.where(mask, self.offsets[rows][:, None] + columns, 0)
        candidates = self.candidates[at].astype(np.int64) * mask
        return candidates, self.labels[at] * mask, self.similarity[at] * mask, mask

    def slice_lists(self, start: int, stop: int) -> "CandidateLists":
        """The lists from ``start`` to ``stop``."""
        offsets = self.offsets[start : stop + 1]
        columns = {name: getattr(self, name)[offsets[0] : offsets[-1]] for name in COLUMNS}
        return CandidateLists(self.queries[start:stop], offsets - offsets[0], **columns)

    def write(self, path: Path) -> None:
        """Write as parquet: list_id, query, candidates, labels, similarity."""
        starts = range(0, max(len(self), 1), ROW_GROUP)
        write_lists(path, (self.slice_lists(start, min(start + ROW_GROUP, len(self))) for start in starts))

    def make_table(self, first: int) -> pa.Table:
        """The table of the file, or of a part of it that begins with list number ``first``."""
        numbers = pa.array(np.arange(first, first + len(self)), pa.int64())
        columns = {"list_id": numbers, "query": pa.array(self.queries, pa.int32())}
        offsets = pa.array(self.offsets, pa.int32())
        for name in COLUMNS:
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(getattr(self, name)))
        return pa.table(columns)

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> "CandidateLists":
        """The lists in some rows of the file."""
        columns = {name: batch[name].flatten().to_numpy(zero_copy_only=False) for name in COLUMNS}
        lengths = batch["candidates"].value_lengths().to_numpy(zero_copy_only=False)
        return cls(batch["query"].to_numpy(), make_offsets(lengths), **columns)

    @classmethod
    def read(cls, path: str | Path, *, verify: bool = True) -> "CandidateLists":
        """Read what ``write`` wrote.

        Args:
            path: of the file.
            verify: compare a finished stage's file with its checksum, unless it was verified before and has not been
                written to. False: for the workers of a stage that has verified the lists.

        Raises:
            DataError: no such file, or a damaged one.
        """
        path = as_path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such candidate lists")
        if verify:
            verify_file(path)
        # Batch by batch: the offsets of a column count to 2³¹ only.
        batches = read_parquet(path).to_batches()
        return cls.join([cls.from_batch(batch) for batch in batches]) if batches else EMPTY


def make_offsets(lengths: np.ndarray) -> np.ndarray:
    """Where every list begins, and the end of the last, int64 [lists + 1]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


EMPTY = CandidateLists(np.empty(0, np.int32), np.zeros(1, np.int64), *(np.empty(0, kind) for kind in COLUMNS.values()))
"""No lists."""


def write_lists(path: Path, parts: Iterable[CandidateLists]) -> None:
    """Write lists that come in parts, of which no more than a row group and one part are in memory.

    Args:
        path: of the file, which is there when all parts have come.
        parts: at least one, each of at most ``ROW_GROUP`` lists.
    """
    with atomic_path(path) as temporary:
        groups = group_parts(parts)
        table = next(groups).make_table(0)
        with open_parquet_writer(temporary, table.schema) as writer:
            writer.write_table(table)
            written = len(table)
            for group in groups:
                writer.write_table(group.make_table(written))
                written += len(group)


def group_parts(parts: Iterable[CandidateLists]) -> Iterator[CandidateLists]:
    """The lists of the parts, ``ROW_GROUP`` at a time."""
    kept: list[CandidateLists] = []
    for part in parts:
        kept.append(part)
        while sum(map(len, kept)) > ROW_GROUP:
            joined = CandidateLists.join(kept)
            yield joined.slice_lists(0, ROW_GROUP)
            kept = [joined.slice_lists(ROW_GROUP, len(joined))]
    yield CandidateLists.join(kept)


def read_parts(path: Path, size: int) -> Iterator[CandidateLists]:
    """The lists of a file, up to ``size`` at a time.

    Raises:
        DataError: no such file, or a damaged one.
    """
    yield from map(CandidateLists.from_batch, read_batches(path, size))
