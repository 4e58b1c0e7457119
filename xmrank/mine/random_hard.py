"""The paper's candidates: drawn at random, in the order of their similarity."""

import faiss
import numpy as np

from xmrank.mine.assemble import RankedItems, all_own, pick_own
from xmrank.mine.draw import draw_distinct
from xmrank.mine.pool import QueryPool


def random_hard(
    pool: QueryPool,
    queries: np.ndarray,
    index: faiss.IndexFlat,
    generator: np.random.Generator,
    *,
    random_candidates: int,
    positives: str,
) -> tuple[RankedItems, RankedItems]:
    """Negatives drawn for the queries of a pool, and positives.

    Args:
        pool: the queries.
        queries: their embeddings, float32 [queries, d].
        index: inner-product index whose id i is ``pool.gallery[i]``.
        generator: source of all draws.
        random_candidates: drawn for each query from the items of other images, without replacement.
        positives: "one" of the query's own items, drawn at random, or "all".

    Returns:
        negatives and positives, each the most similar first.
    """
    drawn = draw_others(pool, generator, random_candidates)
    right = pick_own(pool, generator)
    if positives == "all":
        right = all_own(pool)
    return ranked(index, queries, drawn), ranked(index, queries, right)


def ranked(index: faiss.IndexFlat, queries: np.ndarray, items: np.ndarray) -> RankedItems:
    """Items, [queries, width] with -1 for none, in the order of their similarity."""
    similarity = similarities(index, queries, items)
    order = np.argsort(-similarity, axis=1, kind="stable")
    return RankedItems(np.take_along_axis(items, order, 1), np.take_along_axis(similarity, order, 1))


def similarities(index: faiss.IndexFlat, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Inner products of queries [queries, d] and chosen items of the index, float32 [queries, width]; -inf at -1."""
    result = np.full(items.shape, -np.inf, np.float32)
    asked, chosen = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(items, np.int64)
    pointers = (faiss.swig_ptr(array) for array in (result, chosen))
    index.compute_distance_subset(len(asked), faiss.swig_ptr(asked), items.shape[1], *pointers)  # type: ignore[attr-defined]
    return np.where(items >= 0, result, -np.inf)


def draw_others(pool: QueryPool, generator: np.random.Generator, count: int) -> np.ndarray:
    """For every query, ``count`` different items of other images, int64 [queries, count]."""
    own = pool.last - pool.first
    drawn = draw_distinct(generator, len(pool.gallery) - own, count)
    return drawn + np.where(drawn >= pool.first[:, None], own[:, None], 0)  # step over the query's own items
