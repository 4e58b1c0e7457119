"""Metrics of ranked lists: hit@k, recall@k, MRR and NDCG of every query."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from xmrank.metrics.query_means import KS, check_ks
from xmrank.metrics.ties import Bools, Floats, Ints, TieGroups, expected_metrics

Gain = Literal["exponential", "linear"]

GAINS = {"exponential": lambda labels: np.exp2(labels) - 1, "linear": lambda labels: labels}


def list_metrics(
    scores: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    ks: Sequence[int] = KS,
    total_positives: ArrayLike | None = None,
    gain: Gain = "exponential",
) -> dict[str, Floats]:
    """Metrics of each list, ranked by descending score.

    Every value is the exact expectation over uniformly random orders of items with equal scores, so a constant scorer
    gets exactly what chance gives: recall@k = k/n.

    Definitions, for the positives of a query (items with a label above 0):
        hit@k: 1 if one of them is in the top k (the field's "R@K").
        recall@k: those in the top k / all of them.
        mrr: 1 / rank of the first of them.
        ndcg@k, at the largest of ks: Σ_r g(y_r)/log2(1+r) over the top k, divided by the largest that any order gives.

    Args:
        scores: [items] for one list or [lists, items], any floating dtype; infinities rank like other values.
        labels: relevance, at least 0, [items] or [lists, items].
        mask: True where an item is real, bool [items] or [lists, items]; None: all are. Scores and labels elsewhere
            are ignored.
        ks: the cut-offs.
        total_positives: positives of each query, integers [lists] (one integer for one list), where a list holds only
            some of them (re-ranking of a first stage's top N). Those that are not in the list are missed: they count in
            the denominator of recall@k and, with label 1, in the ideal of NDCG. None: the list holds all.
        gain: g of NDCG: "exponential" 2^y − 1, or "linear" y.

    Returns:
        Under each name (hit@1, …, recall@1, …, mrr, ndcg@10 with the default ks) float64 [lists], from 0 to 1; for one
        list a 0-d array. NaN in every metric where the query has no positive: in the list, or in total where
        `total_positives` is given. With positives in total but none in the list, 0.

    Raises:
        ValueError: the shapes disagree; a real item's score is NaN, or its label is negative, not finite, or overflows
            its gain; a list holds more positives than its total; ks or gain is not one of those described.

    Source: for ties, McSherry and Najork, "Computing information retrieval performance measures efficiently in the
        presence of tied scores", ECIR 2008; NDCG, Burges et al., "Learning to rank using gradient descent", ICML 2005.
    """
    cutoffs = check_ks(ks)
    if np.ndim(scores) == 1:
        # One list is a batch of one, whose values lose their axis again.
        parts = [None if part is None else np.asarray(part)[None] for part in (scores, labels, mask, total_positives)]
        one = list_metrics(*parts[:3], ks=ks, total_positives=parts[3], gain=gain)  # type: ignore[arg-type]
        return {name: value.reshape(()) for name, value in one.items()}
    keys, gains = _check_lists(scores, labels, mask, gain)
    # Positives are counted by gain, because 2^y − 1 rounds to 0 for labels near 0.
    counted = (gains > 0).sum(axis=1)
    totals = counted if total_positives is None else _check_totals(total_positives, counted)
    ideal = _ideal_gains(gains, totals - counted, max(cutoffs))
    return expected_metrics(_find_tie_groups(keys, gains), totals, ideal, cutoffs)


def _check_lists(scores: ArrayLike, labels: ArrayLike, mask: ArrayLike | None, gain: Gain) -> tuple[Floats, Floats]:
    """Keys that sort ascending into the ranking, and gains, float64 [lists, items].

    Padding has the gain 0 and the key NaN, which sorts last and ties with nothing (a real item may score −inf).
    """
    values, relevance = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    real: Bools = np.ones(values.shape, dtype=np.bool_) if mask is None else np.asarray(mask)
    if values.ndim != 2 or relevance.shape != values.shape or real.shape != values.shape:
        raise ValueError(
            f"scores {values.shape}, labels {relevance.shape}, mask {real.shape}; "
            "expected one shape, [items] or [lists, items]"
        )
    if real.dtype != np.bool_:
        raise ValueError(f"mask has dtype {real.dtype}; expected bool, True where an item is real")
    if gain not in GAINS:
        raise ValueError(f"gain is {gain!r}; expected one of {', '.join(GAINS)}")
    if np.isnan(values[real]).any():
        raise ValueError("scores are NaN for real items")
    # Padding may hold anything, also in the labels: only real items are checked.
    relevance = np.where(real, relevance, 0.0)
    if not (np.isfinite(relevance) & (relevance >= 0)).all():
        raise ValueError("labels of real items are negative or not finite")
    with np.errstate(over="ignore"):
        gains: Floats = GAINS[gain](relevance)
    if not np.isfinite(gains).all():
        raise ValueError(f"labels up to {relevance.max()} are too large for the {gain} gain")
    return np.where(real, -values, np.nan), gains


def _check_totals(total_positives: ArrayLike, counted: Ints) -> Ints:
    totals = np.asarray(total_positives)
    if totals.shape != counted.shape or not np.issubdtype(totals.dtype, np.integer):
        raise ValueError(f"total_positives is {totals.dtype} {totals.shape}; expected integers {counted.shape}")
    if (totals < counted).any():
        worst = int(np.argmax(counted - totals))
        raise ValueError(f"list {worst} holds {counted[worst]} positives, but its total_positives is {totals[worst]}")
    return totals.astype(np.int64)


def _find_tie_groups(keys: Floats, gains: Floats) -> TieGroups:
    """The groups of equal keys that hold a positive."""
    lists, items = keys.shape
    # In the order of the ranking, a group starts where a key differs from the one before, or with a new list.
    order = np.argsort(keys, axis=1)
    keys, gains = np.take_along_axis(keys, order, axis=1), np.take_along_axis(gains, order, axis=1).reshape(-1)
    differ = np.ones((lists, items), dtype=np.bool_)
    differ[:, 1:] = keys[:, 1:] != keys[:, :-1]
    starts = np.flatnonzero(differ)
    group = np.cumsum(differ) - 1
    positives = np.bincount(group[gains > 0], minlength=len(starts))
    gained = np.bincount(group, weights=gains, minlength=len(starts)).astype(np.float64, copy=False)
    # Only groups with a positive matter; the number of items above one is its position in its list.
    holding = np.flatnonzero(positives)
    query, above = np.divmod(starts[holding], max(items, 1))
    return TieGroups(query, above, np.diff(starts, append=differ.size)[holding], positives[holding], gained[holding])


def _ideal_gains(gains: Floats, missed: Ints, depth: int) -> Floats:
    """The largest gains of each list, descending, padded with 0, [lists, depth]; a missed positive gains g(1) = 1."""
    missing = (np.arange(depth) < missed[:, None]).astype(np.float64)
    return -np.sort(-np.concatenate([gains, missing], axis=1), axis=1)[:, :depth]
