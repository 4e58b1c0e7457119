"""The paper's candidates: drawn at random, in the order of their similarity."""

import faiss
import numpy as np

from xmrank.candidates.assemble import Ranked, all_own, own_items, pick_own
from xmrank.candidates.draw import draw_distinct
from xmrank.candidates.pool import Pool


def random_hard(
    pool: Pool,
    queries: np.ndarray,
    index: faiss.Index,
    generator: np.random.Generator,
    *,
    random_candidates: int,
    positives: str,
) -> tuple[Ranked, Ranked]:
    """Negatives drawn for the queries of a pool, and positives.

    Args:
        pool: the queries.
        queries: their embeddings, float32 [queries, d].
        index: inner-product index whose id i is ``pool.gallery[i]``.
        generator: source of all draws.
        random_candidates: drawn for each query from the items of other images, without replacement.
        positives: "one" of the query's own items, drawn at random, or "all".

    Returns:
        negatives and positives, each the most similar first; one search gives both.
    """
    drawn = draw_others(pool, generator, random_candidates)
    right = pick_own(pool, generator)
    if positives == "all":
        right = all_own(pool)
    width = random_candidates + right.shape[1]
    items, similarity = np.full((len(queries), width), -1), np.zeros((len(queries), width), np.float32)
    for row, query in enumerate(queries):
        ids = np.concatenate([drawn[row], right[row][right[row] >= 0]])
        selector = faiss.IDSelectorArray(ids)
        values, found = index.search(query[None], len(ids), params=faiss.SearchParameters(sel=selector))  # type: ignore[call-arg]
        items[row, : len(ids)], similarity[row, : len(ids)] = found[0], values[0]
    ranked = Ranked(items, similarity)
    own = own_items(pool, items)
    return ranked.without(own), ranked.without(~own).first(right.shape[1])


def draw_others(pool: Pool, generator: np.random.Generator, count: int) -> np.ndarray:
    """For every query, ``count`` different items of other images, int64 [queries, count]."""
    own = pool.last - pool.first
    drawn = draw_distinct(generator, len(pool.gallery) - own, count)
    return drawn + np.where(drawn >= pool.first[:, None], own[:, None], 0)  # step over the query's own items
