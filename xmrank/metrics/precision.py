"""Average precision of every query, from the relevance of what was ranked."""

import numpy as np
from numpy.typing import ArrayLike

from .ties import Bools, Floats


def average_precision(relevance: ArrayLike, *, tied: ArrayLike | None = None) -> Floats:
    """Average precision over a whole ranking.

    Definition: AP = 1/T · Σ_r P_r δ(r), T the relevant items of the ranking, P_r the precision of its top r, δ(r) = 1
    where the r-th item is relevant. Where items share a score, the value is its exact expectation over uniformly random
    orders of them: the i-th of n tied items, of which m are relevant, behind N items with M relevant ones, contributes
    m/n · (M + 1 + (i − 1)(m − 1)/(n − 1)) / (N + i).

    Args:
        relevance: whether each item is relevant, in rank order, [queries, items], bool.
        tied: True where an item has the same score as the one before it, [queries, items], bool; the first column
            counts for nothing. None: all scores differ.

    Returns:
        float64 [queries], from 0 to 1; NaN where a query has no relevant item.

    Raises:
        ValueError: the shapes disagree, or a value is not bool.

    Source: Gohil, Bithel and Bedathur, "LCM", CODS-COMAD 2023, section 4; for ties McSherry and Najork, "Computing
        information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008.
    """
    found = np.asarray(relevance)
    groups = np.zeros(found.shape, np.bool_) if tied is None else np.asarray(tied)
    if found.ndim != 2 or groups.shape != found.shape or found.dtype != np.bool_ or groups.dtype != np.bool_:
        raise ValueError(
            f"relevance {found.dtype} {found.shape}, tied {groups.dtype} {groups.shape}; expected bool [queries, items]"
        )
    places = np.arange(1, found.shape[1] + 1)
    gained = np.cumsum(found, axis=1)
    share = found.astype(np.float64)
    if groups[:, 1:].any():
        share, gained = _expected(found, groups, gained)
    with np.errstate(invalid="ignore"):  # 0 / 0 of a query without relevant items is the NaN that is promised
        return (share * gained / places).sum(axis=1) / found.sum(axis=1)


def _expected(found: Bools, tied: Bools, gained: np.ndarray) -> tuple[Floats, Floats]:
    """For each place: the chance that a relevant item stands there, and the expected relevant ones down to it if so."""
    queries, items = found.shape
    starts = ~tied
    starts[:, 0] = True
    first = np.flatnonzero(starts)
    group = np.cumsum(starts.ravel()) - 1
    size = np.diff(first, append=found.size)[group]
    relevant = np.add.reduceat(found.ravel().astype(np.float64), first)[group]
    within = np.arange(found.size) - first[group]
    above = (gained - found).ravel()[first][group]
    expected = above + 1 + within * (relevant - 1) / np.maximum(size - 1, 1)
    return (relevant / size).reshape(queries, items), expected.reshape(queries, items)
