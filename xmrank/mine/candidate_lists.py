"""Candidate lists: row numbers, labels and similarities, kept flat; their parquet file."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_table

COLUMNS = {"candidates": np.int32, "labels": np.float32, "similarity": np.float32}
"""Columns with a value for every item."""


@dataclass(frozen=True)
class CandidateLists:
    """Some candidate lists.

    Attributes:
        queries: query rows, int32 [lists].
        offsets: list i is ``candidates[offsets[i]:offsets[i + 1]]``, int64 [lists + 1].
        candidates: rows of the other side, int32 [items].
        labels: relevance, float32 [items], at least 0.
        similarity: first-stage cosine, float32 [items].
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
    def of(
        cls, queries: np.ndarray, items: np.ndarray, labels: np.ndarray, similarity: np.ndarray, lengths: np.ndarray
    ) -> "CandidateLists":
        """From matrices [lists, width] of which the first ``lengths`` places of each row count."""
        real = np.arange(items.shape[1]) < lengths[:, None]
        return cls(
            queries.astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            items[real].astype(np.int32),
            labels[real].astype(np.float32),
            similarity[real].astype(np.float32),
        )

    @classmethod
    def join(cls, parts: "list[CandidateLists]") -> "CandidateLists":
        """All lists of the parts, in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        fields = (np.concatenate([getattr(p, f) for p in parts]) for f in COLUMNS)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(np.concatenate([p.queries for p in parts]), offsets, *fields)

    @cached_property
    def longest(self) -> int:
        """Items of the longest list."""
        return int(self.lengths.max(initial=0))

    def padded(
        self, rows: np.ndarray, width: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Some lists as matrices as wide as the longest of all lists, or of another width that holds it.

        Not of these: what is drawn over a batch in training, its dropout, must not depend on the batch's company.

        Args:
            rows: which lists, int64 [B].
            width: at least that of the longest list.

        Returns:
            candidates int64 [B, n] (0 where padded), labels float32 [B, n], similarity float32 [B, n] (0 where
            padded), mask bool [B, n] (True where real).
        """
        lengths = self.lengths[rows]
        places = np.arange(self.longest if width is None else width)
        mask = places < lengths[:, None]
        at = np.where(mask, self.offsets[rows][:, None] + places, 0)
        zero = np.where(mask, 1, 0)
        candidates = self.candidates[at].astype(np.int64) * zero
        return candidates, self.labels[at] * mask, self.similarity[at] * mask, mask

    def write(self, path: Path) -> None:
        """Write as parquet: list_id, query, candidates, labels, similarity."""
        offsets = pa.array(self.offsets, pa.int32())
        columns = {"list_id": pa.array(range(len(self)), pa.int64()), "query": pa.array(self.queries, pa.int32())}
        for name in COLUMNS:
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(getattr(self, name)))
        write_table(path, pa.table(columns))

    @classmethod
    def read(cls, path: Path) -> "CandidateLists":
        """Read what ``write`` wrote.

        Raises:
            DataError: no such file.
        """
        if not path.is_file():
            raise DataError(f"{path}: no such candidate lists")
        table = pq.read_table(path).combine_chunks()
        columns = {name: combined(table[name]) for name in COLUMNS}
        offsets = columns["candidates"].offsets.to_numpy().astype(np.int64)
        flat = (columns[n].flatten().to_numpy(zero_copy_only=False) for n in COLUMNS)
        return cls(table["query"].to_numpy(), offsets, *flat)


def combined(column: pa.ChunkedArray) -> pa.ListArray:
    """A column as one array; an empty one too."""
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
