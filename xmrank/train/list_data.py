"""Batches of lists: embeddings are gathered by row number, never copied into the lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xmrank.config import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists

DATA_STREAM = 0xDA7A
"""Separates the order of the data from other draws under the same seed."""


@dataclass(frozen=True)
class RankerBatch:
    """Some lists, ready for a ranker.

    Attributes:
        query: [B, d], the store's dtype.
        candidates: [B, n, d], likewise.
        similarity, labels: float32 [B, n].
        mask: bool [B, n], True where an item is real.
    """

    query: Tensor
    candidates: Tensor
    similarity: Tensor
    labels: Tensor
    mask: Tensor


@dataclass(frozen=True)
class ListData:
    """The lists of one direction and role beside the store's two sides.

    Attributes:
        queries, gallery: all rows of the query side and of the other side, [rows, d].
        width: of the batches; None: that of the longest list.
    """

    lists: CandidateLists
    queries: Tensor
    gallery: Tensor
    device: torch.device
    width: int | None = None

    @classmethod
    def of(cls, lists: CandidateLists, store: EmbeddingStore, direction: Direction, device: torch.device) -> "ListData":
        """The lists with the store's arrays: mapped from disk on a CPU, copied once to a GPU."""
        image, text = (as_tensor(side, device) for side in (store.image, store.text))
        queries, gallery = (image, text) if direction == "i2t" else (text, image)
        return cls(lists, queries, gallery, device)

    def batch(self, rows: np.ndarray) -> RankerBatch:
        """The lists with these numbers."""
        candidates, labels, similarity, mask = self.lists.pad_lists(rows, self.width)
        at = torch.from_numpy(candidates).to(self.device)
        asked = torch.from_numpy(self.lists.queries[rows].astype(np.int64)).to(self.device)
        return RankerBatch(
            F.embedding(asked, self.queries),  # a gather; on a CPU several times as fast as indexing
            F.embedding(at, self.gallery),
            *(torch.from_numpy(array).to(self.device) for array in (similarity, labels, mask)),
        )


class BatchSource(Protocol):
    """Anything that gives batches of lists."""

    def batch(self, rows: np.ndarray) -> RankerBatch:
        """The lists with these numbers."""
        ...


@dataclass(frozen=True)
class StackedListData:
    """The lists of several models; a batch holds equally many of each, one model after another."""

    parts: Sequence[ListData]

    def batch(self, rows: np.ndarray) -> RankerBatch:
        """The lists with these numbers, of which each model has an equal share."""
        if all(part is self.parts[0] for part in self.parts):
            return self.parts[0].batch(rows)
        batches = [part.batch(share) for part, share in zip(self.parts, np.split(rows, len(self.parts)), strict=True)]
        return RankerBatch(*(torch.cat(tensors) for tensors in zip(*(vars(b).values() for b in batches), strict=True)))


def as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """A tensor on the array's own memory on a CPU, a copy on a GPU."""
    return torch.from_numpy(array if device.type == "cpu" else np.ascontiguousarray(array)).to(device)


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the lists in an epoch. It follows from seed and epoch alone, so a resume needs no position."""
    return np.random.default_rng([seed, DATA_STREAM, epoch]).permutation(count)
