"""Where the candidates of a list come from. A strategy is one function and one line of the registry."""

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np

from xmrank.config import MineConfig
from xmrank.mine import random_hard as paper
from xmrank.mine.assemble import RankedItems, above_margin, all_own, near_duplicates, own_items, pick_own, with_cosine
from xmrank.mine.pool import QueryPool


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

    def hardest(self, negatives: RankedItems, positives: RankedItems) -> RankedItems:
        """The first negatives, as many as a list gets, that are not likely to be positives."""
        if self.config.positive_margin is not None:
            negatives = negatives.without(above_margin(negatives, positives, self.config.positive_margin))
        if self.config.duplicate_cosine is not None:
            alike = near_duplicates(self.pool, negatives, self.side, self.config.duplicate_cosine)
            negatives = negatives.without(alike)
        return negatives.first(self.config.hard_negatives)


Strategy = Callable[[QueryChunk], RankedItems]
"""Gives the items of every query's list."""


def random_hard(chunk: QueryChunk) -> RankedItems:
    """The paper's: the hardest of a number of random candidates, and the positives.

    With positives "found" a positive is one candidate more, and the list is as long as the paper's: it is listed where
    it is among the hardest, so that no place in a list gives it away.
    """
    config = chunk.config
    negatives, positives = paper.random_hard(
        chunk.pool,
        chunk.queries,
        chunk.index(),
        chunk.generator,
        random_candidates=config.random_candidates,
        positives=config.positives,
    )
    if config.positives == "found":
        return negatives.beside(positives).by_similarity().first(config.hard_negatives + 1)
    return chunk.hardest(negatives, positives).beside(positives)


def top_k(chunk: QueryChunk) -> RankedItems:
    """The hardest of the whole gallery, and the positives; with positives "found", what the first stage gives."""
    nearest = chunk.nearest()
    if chunk.config.positives == "found":
        return nearest.first(chunk.config.hard_negatives)
    positives = positives_of(chunk)
    hardest = chunk.hardest(nearest.without(own_items(chunk.pool, nearest.items)), positives)
    # Computed anew, as those of the positives are, so that equal embeddings have equal similarities.
    return with_cosine(chunk.pool, hardest.items, chunk.queries, chunk.side).beside(positives)


def mixed(chunk: QueryChunk) -> RankedItems:
    """The hardest of the whole gallery, others at random, and the positives."""
    hard = top_k(chunk)
    drawn = paper.draw_others(chunk.pool, chunk.generator, chunk.config.random_negatives + chunk.config.hard_negatives)
    taken = (drawn[:, :, None] == hard.items[:, None, :]).any(2)
    others = RankedItems(drawn, np.zeros(drawn.shape, np.float32)).without(taken).first(chunk.config.random_negatives)
    return with_cosine(chunk.pool, others.items, chunk.queries, chunk.side).beside(hard)


def positives_of(chunk: QueryChunk) -> RankedItems:
    """One of each query's own items, drawn at random, or all of them."""
    own = pick_own(chunk.pool, chunk.generator) if chunk.config.positives == "one" else all_own(chunk.pool)
    return with_cosine(chunk.pool, own, chunk.queries, chunk.side)


STRATEGIES: dict[str, Strategy] = {"random-hard": random_hard, "top-k": top_k, "mixed": mixed}
"""Strategies by name."""


def searched_width(config: MineConfig, pool: QueryPool) -> int:
    """Items to search for each query in the whole gallery; 0: no search. More than enough where some are left out."""
    if config.strategy == "random-hard":
        return 0
    if config.positives == "found":
        return config.hard_negatives
    spare = config.hard_negatives if config.leaves_out else 0
    own = int((pool.last - pool.first).max(initial=0))
    return min(config.hard_negatives + own + spare, len(pool.gallery))


def drawn_negatives(config: MineConfig) -> tuple[str, int]:
    """Items of other images that every query must have, and the flag that asks for them."""
    if config.strategy == "random-hard":
        return "--random-candidates", config.random_candidates
    if config.strategy == "mixed":
        return "--hard-negatives and --random-negatives", config.hard_negatives + config.random_negatives
    return "--hard-negatives", config.hard_negatives
