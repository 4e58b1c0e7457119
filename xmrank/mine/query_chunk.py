"""Some queries whose lists are made together, and the choices that all strategies share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xmrank.config import MineConfig
from xmrank.mine.assemble import (
    RankedItems,
    above_margin,
    all_own_items,
    draw_own_items,
    near_duplicates,
    with_cosine,
)
from xmrank.mine.gallery_index import compute_similarities, fits_memory, make_flat_index
from xmrank.mine.pool import QueryPool

if TYPE_CHECKING:
    import faiss


@dataclass(frozen=True)
class QueryChunk:
    """Some queries whose lists are made together.

    Attributes:
        pool: the queries.
        queries: their embeddings, float32 [queries, d].
        side: embeddings of the gallery's side, memory-mapped [rows, d].
        generator: source of all draws.
        index: makes the flat index of the whole gallery.
        nearest: makes the queries' nearest items in the whole gallery.
    """

    pool: QueryPool
    queries: np.ndarray
    side: np.ndarray
    generator: np.random.Generator
    config: MineConfig
    index: Callable[[], faiss.IndexFlat]
    nearest: Callable[[], RankedItems]

    def compare_items(self, items: np.ndarray) -> np.ndarray:
        """The queries' similarities with items of the gallery.

        Args:
            items: int64 [queries, width]; -1: none.

        Returns:
            float32 [queries, width]; -inf where there is no item.
        """
        if fits_memory(self.side, self.pool.gallery):
            return compute_similarities(self.index(), self.queries, items)
        # Of a larger gallery, only these items are in memory; the similarities are the same, digit by digit.
        chosen, numbers = np.unique(items, return_inverse=True)
        # -1 would be the first of them.
        none = int(len(chosen) > 0 and chosen[0] < 0)
        index = make_flat_index(self.side, self.pool.gallery[chosen[none:]])
        return compute_similarities(index, self.queries, numbers.reshape(items.shape) - none)

    def choose_negatives(self, negatives: RankedItems, positives: RankedItems) -> RankedItems:
        """The first negatives, as many as a list gets, that are not likely to be positives."""
        if self.config.positive_margin is not None:
            negatives = negatives.remove_items(above_margin(negatives, positives, self.config.positive_margin))
        if self.config.duplicate_cosine is not None:
            # The same caption may belong to several images: as a negative it would be wrong.
            duplicates = near_duplicates(self.pool, negatives, self.side, self.config.duplicate_cosine)
            negatives = negatives.remove_items(duplicates)
        return negatives.take_first(self.config.hard_negatives)

    def choose_positives(self) -> RankedItems:
        """One of each query's own items, drawn at random, or all of them."""
        one = self.config.positives == "one"
        own = draw_own_items(self.pool, self.generator) if one else all_own_items(self.pool)
        return with_cosine(self.pool, own, self.queries, self.side)
