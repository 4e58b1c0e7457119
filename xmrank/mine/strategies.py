"""Where the candidates of a list come from. A strategy is one function and one line of the registry."""

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
    is_own_item,
    near_duplicates,
    with_cosine,
)
from xmrank.mine.pool import QueryPool
from xmrank.mine.random_hard import draw_candidates, draw_others

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


Strategy = Callable[[QueryChunk], RankedItems]
"""Gives the items of every query's list."""


def mine_random_hard(chunk: QueryChunk) -> RankedItems:
    """The paper's: the hardest of a number of random candidates, and the positives.

    With positives "retrieved" a positive is one more candidate, and the list is as long as the paper's: the positive is
    in the list only if it is among the hardest, so that its rank does not give it away.
    """
    config = chunk.config
    negatives, positives = draw_candidates(
        chunk.pool,
        chunk.queries,
        chunk.index(),
        chunk.generator,
        random_candidates=config.random_candidates,
        positives=config.positives,
    )
    if config.positives == "retrieved":
        return negatives.append_items(positives).sort_by_similarity().take_first(config.hard_negatives + 1)
    return chunk.choose_negatives(negatives, positives).append_items(positives)


def mine_top_k(chunk: QueryChunk) -> RankedItems:
    """The hardest of the whole gallery, and the positives; with positives "retrieved", the first stage's top."""
    nearest = chunk.nearest()
    if chunk.config.positives == "retrieved":
        return nearest.take_first(chunk.config.hard_negatives)
    positives = chunk.choose_positives()
    others = nearest.remove_items(is_own_item(chunk.pool, nearest.items))
    hardest = chunk.choose_negatives(others, positives)
    # Computed again, as those of the positives are, so that equal embeddings have equal similarities.
    return with_cosine(chunk.pool, hardest.items, chunk.queries, chunk.side).append_items(positives)


def mine_mixed(chunk: QueryChunk) -> RankedItems:
    """The hardest of the whole gallery, others at random, and the positives."""
    hard = mine_top_k(chunk)
    # More than are needed: some may be among the hardest already, and a list holds no item twice.
    drawn = draw_others(chunk.pool, chunk.generator, chunk.config.random_negatives + chunk.config.hard_negatives)
    taken = (drawn[:, :, None] == hard.items[:, None, :]).any(2)
    others = RankedItems(drawn, np.zeros(drawn.shape, np.float32))
    others = others.remove_items(taken).take_first(chunk.config.random_negatives)
    return with_cosine(chunk.pool, others.items, chunk.queries, chunk.side).append_items(hard)


STRATEGIES: dict[str, Strategy] = {"random-hard": mine_random_hard, "top-k": mine_top_k, "mixed": mine_mixed}
"""Strategies by name."""


def count_searched(config: MineConfig, pool: QueryPool) -> int:
    """Items to search for each query in the whole gallery; 0: no search. More than enough where some are left out."""
    if config.strategy == "random-hard":
        return 0
    if config.positives == "retrieved":
        return config.hard_negatives
    # Searched beyond the list's length, because some will be left out.
    spare = config.hard_negatives if config.leaves_out else 0
    own = int((pool.last - pool.first).max(initial=0))
    return min(config.hard_negatives + own + spare, len(pool.gallery))


def count_needed_negatives(config: MineConfig) -> tuple[str, int]:
    """The flags that decide how many items of other images every query must have, and their number."""
    if config.strategy == "random-hard":
        return "--random-candidates", config.random_candidates
    if config.strategy == "mixed":
        return "--hard-negatives and --random-negatives", config.hard_negatives + config.random_negatives
    return "--hard-negatives", config.hard_negatives
