"""Metrics as exact expectations over the orders that ties leave open.

Items of equal score form a tie group. A ranking is known only up to the order inside its groups, and a metric is its
mean over all these orders, each equally likely. A few counts are all it takes to describe a group: how many items are
above it, how many it holds, how many of those are positive and what they gain. An untied item is a group of 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmrank.metrics.query_means import metric_names

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CELLS = 1 << 20
"""Probabilities tabulated at a time (8 MiB)."""


@dataclass(frozen=True)
class TieGroups:
    """The tie groups that hold a positive, of all queries together: by query, then from the top of the ranking."""

    query: Ints
    """The query a group belongs to, [groups]."""
    above: Ints
    """Items of that query with a higher score."""
    size: Ints
    """Items in the group."""
    positives: Ints
    """Positives in the group, from 1 to size."""
    gain: Floats
    """The sum of its items' gains, for NDCG."""


def expected_metrics(groups: TieGroups, totals: Ints, ideal_gains: Floats, ks: tuple[int, ...]) -> dict[str, Floats]:
    """All metrics of all queries.

    Args:
        groups: the ranking.
        totals: positives of each query, ranked or not, [queries].
        ideal_gains: the largest gains of each query, descending, padded with 0, [queries, max(ks)].
        ks: cut-offs.

    Returns:
        A value a query under each of `metric_names(ks)`, [queries]; NaN where the query has no positive, 0 where it
        has some and none of them was ranked.
    """
    first_hits, reciprocal_rank = _expect_first_positive(groups, len(totals), ks)
    recalls = [_expect_recall(groups, totals, k) for k in ks]
    columns = [*first_hits, *recalls, reciprocal_rank, _expect_ndcg(groups, ideal_gains)]
    without = totals == 0
    for column in columns:
        column[without] = np.nan
    return dict(zip(metric_names(ks), columns, strict=True))


def _count_filled_ranks(groups: TieGroups, k: int) -> Ints:
    """How many ranks of the top k each group fills, [groups]."""
    return np.clip(k - groups.above, 0, groups.size)


def _expect_recall(groups: TieGroups, totals: Ints, k: int) -> Floats:
    """E[positives in the top k] / positives, [queries].

    A group that fills t ranks of the top k has positives · t / size of its positives there.
    """
    filled = _count_filled_ranks(groups, k)
    inside, cut = filled == groups.size, (filled > 0) & (filled < groups.size)
    retrieved = np.bincount(groups.query[inside], weights=groups.positives[inside], minlength=len(totals))
    recall: Floats = np.divide(retrieved, totals, out=np.zeros(len(totals)), where=totals > 0)
    # At most one group a query is cut by k. One division of integers makes k/n the nearest float to k/n.
    query, size = groups.query[cut], groups.size[cut]
    recall[query] = (retrieved[query] * size + groups.positives[cut] * filled[cut]) / (totals[query] * size)
    return recall


def _expect_ndcg(groups: TieGroups, ideal_gains: Floats) -> Floats:
    """Each group's gain times the mean discount of its ranks, over the ideal (as many ranks as `ideal_gains` has)."""
    queries, depth = ideal_gains.shape
    discounts = np.append(1 / np.log2(np.arange(2, depth + 2)), 0.0)  # of the ranks 1 … depth; 0 below
    summed = np.append(0.0, np.cumsum(discounts[:-1]))
    top, bottom = np.minimum(groups.above, depth), np.minimum(groups.above + groups.size, depth)
    # The difference of sums is the discount itself for a group of 1, but rounded: a perfect ranking would miss 1.0.
    mean_discount = np.where(groups.size == 1, discounts[top], (summed[bottom] - summed[top]) / groups.size)
    gained = np.bincount(groups.query, weights=groups.gain * mean_discount, minlength=queries)
    # Summed one by one, like bincount does, so that equal rankings give equal floats.
    ideal = np.cumsum(ideal_gains * discounts[:-1], axis=1)[:, -1]
    ndcg: Floats = np.divide(gained, ideal, out=np.zeros(queries), where=ideal > 0)
    return np.minimum(ndcg, 1.0, out=ndcg)


def _expect_first_positive(groups: TieGroups, queries: int, ks: tuple[int, ...]) -> tuple[list[Floats], Floats]:
    """hit@k for each of ks, and E[1/rank of the first positive]; both need only the topmost group with a positive."""
    # The first group of each query: groups are sorted by query, then from the top.
    topmost = np.append(True, groups.query[1:] != groups.query[:-1])[: len(groups.query)]
    query = groups.query[topmost]
    counts = np.stack([groups.above, groups.size, groups.positives], axis=1)[topmost]
    # Many queries have the same counts (all do under a constant scorer): each kind is computed once.
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    values = np.empty((len(kinds), len(ks) + 1))
    for rows in _split_evenly(kinds[:, 1]):
        above, size, positives = kinds[rows].T
        values[rows] = _expect_kinds(above, size, positives, ks)
    columns = np.zeros((len(ks) + 1, queries))
    columns[:, query] = values[kind.reshape(-1)].T
    return list(columns[:-1]), columns[-1]


def _expect_kinds(above: Ints, size: Ints, positives: Ints, ks: tuple[int, ...]) -> Floats:
    """hit@k and reciprocal rank for groups given by their counts, [groups, len(ks) + 1].

    Drawing the group's items one after the other, draw j (from 0) is a positive with probability positives/(size − j)
    if none was before: the hypergeometric distribution as a product of ratios in [0, 1], whatever the group's size.
    """
    drawn = np.arange(size.max())
    left = np.maximum(size[:, None] - drawn, 1)
    positive = np.minimum(positives[:, None] / left, 1.0)  # 1 once only positives are left: nothing comes after it
    none_yet = np.cumprod(np.maximum(left - positives[:, None], 0) / left, axis=1)
    first = np.concatenate([np.ones((len(size), 1)), none_yet[:, :-1]], axis=1) * positive
    rank = above[:, None] + drawn + 1
    # cumsum adds in order: the padding at the end, which depends on the other queries, cannot change the rounding.
    hits = [np.cumsum(np.where(rank <= k, first, 0.0), axis=1)[:, -1] for k in ks]
    # A single positive is anywhere in its group with equal probability; this way its hit equals its recall exactly.
    single = [
        np.where(positives == 1, np.clip(k - above, 0, size) / size, hit) for k, hit in zip(ks, hits, strict=True)
    ]
    reciprocal_rank = np.cumsum(first / rank, axis=1)[:, -1]
    values: Floats = np.stack([*single, reciprocal_rank], axis=1)
    return np.minimum(values, 1.0, out=values)


def _split_evenly(widths: Ints) -> Iterator[Ints]:
    """Row numbers in parts of at most CELLS cells when every row of a part is as wide as its widest, or one row."""
    order = np.argsort(-widths, kind="stable")
    # Widest first, so that the rows of a part are of similar width.
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, CELLS // int(widths[order[start]]))]
        yield rows
        start += len(rows)
