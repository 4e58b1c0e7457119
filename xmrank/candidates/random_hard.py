"""The paper's lists: candidates drawn at random, the most similar of them kept, the positives added."""

import faiss
import numpy as np

from xmrank.candidates.draw import draw_distinct
from xmrank.candidates.lists import Lists
from xmrank.candidates.pool import Pool


def random_hard(
    pool: Pool,
    queries: np.ndarray,
    index: faiss.Index,
    generator: np.random.Generator,
    *,
    random_candidates: int,
    hard_negatives: int,
    positives: str,
) -> Lists:
    """Lists for the queries of a pool.

    Args:
        pool: the queries.
        queries: their embeddings, float32 [queries, d].
        index: inner-product index whose id i is ``pool.gallery[i]``.
        generator: source of all draws.
        random_candidates: drawn for each query from the items of other images, without replacement.
        hard_negatives: how many of them are kept, the most similar.
        positives: "one" of the query's own items, drawn at random, or "all".

    Returns:
        Lists in random order within each list.
    """
    own = pool.last - pool.first
    drawn = draw_distinct(generator, len(pool.gallery) - own, random_candidates)
    drawn += np.where(drawn >= pool.first[:, None], own[:, None], 0)  # step over the query's own items
    picked = pool.first + (generator.random(len(own)) * own).astype(np.int64)
    width = hard_negatives + (1 if positives == "one" else int(own.max(initial=0)))
    items = np.zeros((len(own), width), np.int64)
    similarity = np.zeros((len(own), width), np.float32)
    lengths = np.zeros(len(own), np.int64)
    for row, (query, negatives) in enumerate(zip(queries, drawn, strict=True)):
        right = picked[row : row + 1] if positives == "one" else np.arange(pool.first[row], pool.last[row])
        kept, values = hardest(index, query, negatives, right, hard_negatives)
        items[row, : len(kept)], similarity[row, : len(kept)], lengths[row] = kept, values, len(kept)
    order = shuffle(generator, lengths, width)
    items, similarity = np.take_along_axis(items, order, 1), np.take_along_axis(similarity, order, 1)
    labels = (items >= pool.first[:, None]) & (items < pool.last[:, None])
    return Lists.of(pool.queries, pool.gallery[items], labels.astype(np.float32), similarity, lengths)


def hardest(
    index: faiss.Index, query: np.ndarray, negatives: np.ndarray, right: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` most similar negatives and all positives, with their similarities; one search gives both."""
    ids = np.concatenate([negatives, right])
    selector = faiss.IDSelectorArray(ids)
    values, found = index.search(query[None], len(ids), params=faiss.SearchParameters(sel=selector))  # type: ignore[call-arg]
    wanted = np.isin(found[0], right, assume_unique=True)
    wanted[np.flatnonzero(~wanted)[:count]] = True
    return found[0][wanted], values[0][wanted]


def shuffle(generator: np.random.Generator, lengths: np.ndarray, width: int) -> np.ndarray:
    """A random order of each row's first ``lengths`` places, the rest behind them; int64 [rows, width]."""
    keys = generator.random((len(lengths), width))
    keys[np.arange(width) >= lengths[:, None]] = 2.0
    return np.argsort(keys, axis=1, kind="stable")
