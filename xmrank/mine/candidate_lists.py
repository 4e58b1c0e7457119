"""Candidate lists: row numbers, labels and similarities, kept flat; their parquet file."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_parquet, write_table
from xmrank.runtime.paths import as_path
from xmrank.runtime.verification import verify_file

COLUMNS = {"candidates": np.int32, "labels": np.float32, "similarity": np.float32}
"""Columns with a value for every item."""


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

    def write(self, path: Path) -> None:
        """Write as parquet: list_id, query, candidates, labels, similarity."""
        offsets = pa.array(self.offsets, pa.int32())
        columns = {"list_id": pa.array(range(len(self)), pa.int64()), "query": pa.array(self.queries, pa.int32())}
        for name in COLUMNS:
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(getattr(self, name)))
        write_table(path, pa.table(columns))

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
        # Offsets are those of one array: parquet's row groups come as several.
        table = read_parquet(path).combine_chunks()
        columns = {name: combine_column(table[name]) for name in COLUMNS}
        items = {name: column.flatten().to_numpy(zero_copy_only=False) for name, column in columns.items()}
        offsets = columns["candidates"].offsets.to_numpy().astype(np.int64)
        return cls(table["query"].to_numpy(), offsets, **items)


def make_offsets(lengths: np.ndarray) -> np.ndarray:
    """Where every list begins, and the end of the last, int64 [lists + 1]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def combine_column(column: pa.ChunkedArray) -> pa.ListArray:
    """A column as one array, also an empty one."""
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
