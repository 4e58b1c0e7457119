"""The paper's candidates: of a number of random items, 200 by default, the most similar to the query, 50 by default."""

from collections.abc import Callable

import numpy as np

from xmrank.mine.assemble import RankedItems, all_own_items, draw_own_items
from xmrank.mine.draw import draw_distinct
from xmrank.mine.pool import QueryPool
from xmrank.mine.query_chunk import QueryChunk


def mine_random_hard(chunk: QueryChunk) -> RankedItems:
    """The paper's: the hardest of a number of random candidates, and the positives.

    With positives "retrieved" a positive is one more candidate, and the list is as long as the paper's: the positive is
    in the list only if it is among the hardest, so that its rank does not give it away.
    """
    config = chunk.config
    negatives, positives = draw_candidates(
        chunk.pool,
        chunk.compare_items,
        chunk.generator,
        random_candidates=config.random_candidates,
        positives=config.positives,
    )
    if config.positives == "retrieved":
        return negatives.append_items(positives).sort_by_similarity().take_first(config.hard_negatives + 1)
    return chunk.choose_negatives(negatives, positives).append_items(positives)


def draw_candidates(
    pool: QueryPool,
    compare_items: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator,
    *,
    random_candidates: int,
    positives: str,
) -> tuple[RankedItems, RankedItems]:
    """Negatives drawn for the queries of a pool, and positives.

    Args:
        pool: the queries.
        compare_items: gives the queries' similarities with items of the gallery, [queries, width].
        generator: source of all draws.
        random_candidates: drawn for each query from the items of other images, without replacement.
        positives: "one" of the query's own items, drawn at random, or "all".

    Returns:
        negatives and positives, each the most similar first.
    """
    drawn = draw_others(pool, generator, random_candidates)
    # Drawn also where all are taken, so that the stream of random numbers is the same for both.
    own = draw_own_items(pool, generator)
    if positives == "all":
        own = all_own_items(pool)
    return rank_items(drawn, compare_items(drawn)), rank_items(own, compare_items(own))


def rank_items(items: np.ndarray, similarity: np.ndarray) -> RankedItems:
    """Items [queries, width], -1 for none, in the order of their similarity."""
    order = np.argsort(-similarity, axis=1, kind="stable")
    return RankedItems(items, similarity).reorder(order)


def draw_others(pool: QueryPool, generator: np.random.Generator, count: int) -> np.ndarray:
    """For every query, ``count`` different items of other images, int64 [queries, count]."""
    own = pool.last - pool.first
    drawn = draw_distinct(generator, len(pool.gallery) - own, count)
    # The numbers count the items of other images: those behind the query's own items move up by as many.
    return drawn + np.where(drawn >= pool.first[:, None], own[:, None], 0)
