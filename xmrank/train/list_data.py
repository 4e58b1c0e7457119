"""Candidate lists beside the embeddings of a store, and the batches that rankers take."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xmrank.config import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import ListTokens
from xmrank.train.refined_gallery import RefinedGallery
from xmrank.train.token_sides import TokenSides

SCORED_AT_ONCE = {"cpu": 32, "cuda": 256}
"""Lists that are scored together without training, by the type of the device. On a CPU, few of them stay in its caches:
a fifth to a quarter less time than 256."""


@dataclass(frozen=True)
class RankerBatch:
    """Some lists, ready for a ranker.

    Attributes:
        query: [lists, d], in the store's dtype.
        candidates: [lists, items, d], in the store's dtype.
        similarity: of the first stage, float32 [lists, items].
        labels: relevance, float32 [lists, items].
        mask: True where an item is real, bool [lists, items].
        tokens: of the lists, for a ranker that reads them.
    """

    query: Tensor
    candidates: Tensor
    similarity: Tensor
    labels: Tensor
    mask: Tensor
    tokens: ListTokens | None = None

    @classmethod
    def join(cls, batches: Sequence["RankerBatch"]) -> "RankerBatch":
        """The lists of several batches of one width and without tokens, in order."""
        if len(batches) == 1:
            return batches[0]
        assert all(batch.tokens is None for batch in batches)  # rankers that read tokens are never stacked
        names = [field.name for field in fields(cls) if field.name != "tokens"]
        columns: dict[str, Any] = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
        return cls(**columns)


@dataclass(frozen=True)
class ListData:
    """Candidate lists of one direction, and the two sides of the store that their row numbers point into.

    Attributes:
        queries: all rows of the query side, [rows, d].
        gallery: all rows of the other side, [rows, d].
        device: where batches are put.
        width: items of a batch's lists, padding included; None: as many as the longest list has.
        tokens: of both sides, for a ranker that reads them.
        refined: gives batches the refined similarity; None: they have that of the lists.
    """

    lists: CandidateLists
    queries: Tensor
    gallery: Tensor
    device: torch.device
    width: int | None = None
    tokens: TokenSides | None = None
    refined: RefinedGallery | None = None

    @classmethod
    def of(
        cls,
        lists: CandidateLists,
        store: EmbeddingStore,
        direction: Direction,
        device: torch.device,
        *,
        tokens: bool = False,
    ) -> "ListData":
        """The lists with the store's arrays: mapped from disk on a CPU, copied once to a GPU.

        Args:
            lists: the lists.
            store: what their row numbers point into.
            direction: of the lists.
            device: where batches are put.
            tokens: whether batches have the store's tokens, which are read from disk on any device.
        """
        # On a CPU a batch reads only the rows that it needs from disk.
        image, text = as_tensor(store.image, device), as_tensor(store.text, device)
        queries, gallery = (image, text) if direction == "i2t" else (text, image)
        return cls(lists, queries, gallery, device, tokens=TokenSides.of(store, direction) if tokens else None)

    def gather_batch(self, rows: np.ndarray) -> RankerBatch:
        """The lists with these numbers, int64 [lists], in their order."""
        candidates, labels, similarity, mask = self.lists.pad_lists(rows, self.width)
        queries = self.lists.queries[rows].astype(np.int64)
        query_rows = torch.from_numpy(queries).to(self.device)
        candidate_rows = torch.from_numpy(candidates).to(self.device)
        # F.embedding gathers rows; on a CPU it is several times as fast as indexing.
        query = F.embedding(query_rows, self.queries)
        refined = self.refined.compare(query, queries, candidates) if self.refined else None
        return RankerBatch(
            query=query,
            candidates=F.embedding(candidate_rows, self.gallery),
            similarity=torch.from_numpy(similarity).to(self.device) if refined is None else refined,
            labels=torch.from_numpy(labels).to(self.device),
            mask=torch.from_numpy(mask).to(self.device),
            tokens=self.tokens.gather(queries, candidates, self.device) if self.tokens else None,
        )


def gather_stacked_batch(data: Sequence[ListData], rows: Sequence[np.ndarray]) -> RankerBatch:
    """A batch for a stack of rankers: the lists of one ranker after those of another.

    Args:
        data: of each ranker.
        rows: for each ranker, the numbers of its lists; equally many for all.
    """
    # Rankers often share their lists (fixed lists, or lists drawn with one seed): then one gather is enough.
    if all(part is data[0] for part in data):
        return data[0].gather_batch(np.concatenate(rows))
    return RankerBatch.join([part.gather_batch(numbers) for part, numbers in zip(data, rows, strict=True)])


def as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """A tensor on the array's own memory on a CPU, a copy on a GPU."""
    return torch.from_numpy(array if device.type == "cpu" else np.ascontiguousarray(array)).to(device)
