"""Where the candidates of a list come from. A strategy is one function and one line of the registry."""

from collections.abc import Callable

import numpy as np

from xmrank.config import MineConfig
from xmrank.mine.assemble import RankedItems, is_own_item, with_cosine
from xmrank.mine.pool import QueryPool
from xmrank.mine.query_chunk import QueryChunk
from xmrank.mine.random_hard import draw_others, mine_random_hard

Strategy = Callable[[QueryChunk], RankedItems]
"""Gives the items of every query's list."""


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
