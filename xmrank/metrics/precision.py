"""Average precision of every query, from the relevance of a ranking."""

import numpy as np
from numpy.typing import ArrayLike

from xmrank.metrics.ties import Bools, Floats


def average_precision(relevance: ArrayLike, *, tied: ArrayLike | None = None, cut: int | None = None) -> Floats:
    """Average precision over a whole ranking, or down to a rank.

    Definition: AP = 1/T · Σ_r P_r δ(r), T the relevant items of the ranking, P_r the precision of its top r, δ(r) = 1
    where the r-th item is relevant. Where items have one score, the value is its exact expectation over uniformly
    random orders of them: the i-th of n tied items, of which m are relevant, behind N items with M relevant ones, adds
    m/n · (M + 1 + (i − 1)(m − 1)/(n − 1)) / (N + i).

    Args:
        relevance: whether each item is relevant, in rank order, bool [items] for one query or [queries, items].
            Padding at the end is an item that is not relevant.
        tied: True where an item has the same score as the one before it, bool, in the shape of relevance; the first
            column counts for nothing. None: all scores differ.
        cut: R of AP@R: the sum goes to rank R, and is divided by the smaller of T and R. None: all ranks.

    Returns:
        float64 [queries], or a 0-d array for one query, from 0 to 1; NaN where a query has no relevant item.

    Raises:
        ValueError: the shapes disagree, or a value is not bool, or the cut is below 1.

    Source: Gohil, Bithel and Bedathur, "LCM", CODS-COMAD 2023, section 4; for ties McSherry and Najork, "Computing
        information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008.
    """
    relevant = np.asarray(relevance)
    groups = np.zeros(relevant.shape, np.bool_) if tied is None else np.asarray(tied)
    types = {relevant.dtype, groups.dtype}
    if relevant.ndim not in (1, 2) or groups.shape != relevant.shape or types != {np.dtype(np.bool_)}:
        raise ValueError(
            f"relevance {relevant.dtype} {relevant.shape}, tied {groups.dtype} {groups.shape}; "
            "expected bool [items] or [queries, items]"
        )
    if relevant.ndim == 1:
        return average_precision(relevant[None], tied=groups[None], cut=cut).reshape(())
    if cut is not None and cut < 1:
        raise ValueError(f"cut is {cut}; expected at least 1")
    # P_r is the number of relevant items down to rank r, divided by r.
    ranks = np.arange(1, relevant.shape[1] + 1)
    relevant_above = np.cumsum(relevant, axis=1)
    probability = relevant.astype(np.float64)
    if groups[:, 1:].any():
        probability, relevant_above = _expect_relevant(relevant, groups, relevant_above)
    with np.errstate(invalid="ignore"):  # 0 / 0 of a query without relevant items is the NaN that is promised
        most = relevant.sum(axis=1) if cut is None else np.minimum(relevant.sum(axis=1), cut)
        return (probability * relevant_above / ranks)[:, :cut].sum(axis=1) / most


def expected_relevance(relevance: ArrayLike, *, tied: ArrayLike) -> Floats:
    """The probability that a relevant item stands at each rank, over uniformly random orders of tied items.

    Args:
        relevance, tied: as for ``average_precision``, bool [queries, items].

    Returns:
        float64 [queries, items]. Sums of it over ranks are expected numbers of relevant items: the top-N precision is
        the mean of the first N, the recall at a rank the sum down to it over the sum of all.
    """
    relevant, groups = np.asarray(relevance), np.asarray(tied)
    return _expect_relevant(relevant, groups, np.cumsum(relevant, axis=1))[0]


def _expect_relevant(relevant: Bools, tied: Bools, relevant_above: np.ndarray) -> tuple[Floats, Floats]:
    """For each rank: the probability of a relevant item, and, if it is one, the expected number down to it.

    Args:
        relevant, tied: as above, bool [queries, items].
        relevant_above: relevant items down to each rank, in the given order, [queries, items].
    """
    queries, items = relevant.shape
    starts = ~tied
    starts[:, 0] = True
    # Tie groups of all queries, one after another; then what each item's group is like.
    first = np.flatnonzero(starts)
    group = np.cumsum(starts.ravel()) - 1
    size = np.diff(first, append=relevant.size)[group]
    positives = np.add.reduceat(relevant.ravel().astype(np.float64), first)[group]
    within = np.arange(relevant.size) - first[group]
    # Relevant items above the group: those above its first item.
    before = (relevant_above - relevant).ravel()[first][group]
    expected = before + 1 + within * (positives - 1) / np.maximum(size - 1, 1)
    return (positives / size).reshape(queries, items), expected.reshape(queries, items)
