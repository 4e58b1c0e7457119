"""Metrics for data sets with more relevance than one positive a query: mAP@R, R-precision, plausible-match R-precision.

Like all metrics here they are expectations over random orders of equal scores, one value a query.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xmrank.metrics.ties import Bools, Floats, Ints

DISTANCES = (0, 1, 2)
"""Label differences up to which a match is plausible; PMRP is the mean over them."""


def metrics_at_r(
    scores: ArrayLike, relevant: ArrayLike, mask: ArrayLike | None = None, *, totals: ArrayLike | None = None
) -> dict[str, Floats]:
    """mAP@R and R-precision of each query, R being the number of its positives.

    Definitions: r_precision is the fraction of positives in the top R; map@r is (1/R) Σ_{i ≤ R} rel_i · precision@i.

    Args:
        scores: [items] for one query or [queries, items], any floating dtype; −inf where an item was not ranked.
        relevant: bool, in the shape of scores.
        mask: True where an item is real, bool, in the shape of scores; None: all are.
        totals: positives of each query, ranked or not, integers [queries]; None: those that were ranked.

    Returns:
        map@r and r_precision, float64 [queries], or a 0-d array for one query; NaN where a query has no positive.

    Raises:
        ValueError: the shapes disagree, a score is NaN, or a total is below what was ranked or above the items.

    Source: Musgrave et al., "A metric learning reality check", ECCV 2020; for captions Chun et al., "ECCV Caption:
        correcting false negatives by collecting machine-and-human-verified image-caption associations", ECCV 2022.
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(relevant, np.bool_)
    real = np.ones(values.shape, np.bool_) if mask is None else np.asarray(mask, np.bool_)
    if values.ndim not in (1, 2) or labels.shape != values.shape or real.shape != values.shape:
        raise ValueError(
            f"scores {values.shape}, relevant {labels.shape}, mask {real.shape}; "
            "expected one shape, [items] or [queries, items]"
        )
    if values.ndim == 1:
        # One query is a batch of one, whose values lose their axis again.
        one_total = None if totals is None else np.asarray(totals)[None]
        batch = metrics_at_r(values[None], labels[None], real[None], totals=one_total)
        return {name: value.reshape(()) for name, value in batch.items()}
    # Padding is like an item that was not ranked, but for the fact that it is never a positive.
    values, labels = np.where(real, values, -np.inf), labels & real
    if np.isnan(values).any():
        raise ValueError("scores are NaN")
    counts = _count_positives(values, labels, totals)
    pairs = [_precision_at_r(row, hit, int(r)) for row, hit, r in zip(values, labels, counts, strict=True)]
    result = np.array(pairs, np.float64).reshape(-1, 2)
    return {"map@r": result[:, 0], "r_precision": result[:, 1]}


def _count_positives(scores: Floats, relevant: Bools, totals: ArrayLike | None) -> Ints:
    """R of each query: its ranked positives, or its total."""
    ranked: Ints = (relevant & (scores > -np.inf)).sum(1)
    if totals is None:
        return ranked
    counts = np.asarray(totals)
    if counts.shape != ranked.shape or (counts < ranked).any() or (counts > scores.shape[1]).any():
        raise ValueError(f"totals: expected one a query, from its ranked positives to {scores.shape[1]} items")
    return counts


def _precision_at_r(scores: Floats, relevant: Bools, r: int) -> tuple[float, float]:
    """mAP@R and R-precision of one query, tie group by tie group.

    In a group of g items with p positives behind c positives, the item on rank i, the t-th of the group, is positive
    with probability p/g, and then there are c + 1 + (t − 1)(p − 1)/(g − 1) positives up to it.
    """
    if r == 0:
        return np.nan, np.nan
    ranked = scores > -np.inf
    order = np.argsort(-scores[ranked], kind="stable")
    keys, hits = scores[ranked][order], relevant[ranked][order]
    # A tie group starts where a score differs from the one before.
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    precision_sum = expected_hits = 0.0
    for start, stop in zip(starts, np.append(starts[1:], len(keys)), strict=True):
        # Only ranks up to R count; the last group may reach beyond them.
        if start >= r:
            break
        size, positives, before = stop - start, int(hits[start:stop].sum()), int(hits[:start].sum())
        ranks = np.arange(start + 1, min(stop, r) + 1)
        probability = positives / size
        # Of the other positives of the group, how many are expected on the ranks above this one.
        others_above = (ranks - start - 1) * ((positives - 1) / (size - 1) if size > 1 else 0.0)
        expected_hits += probability * len(ranks)
        precision_sum += float((probability * (before + 1 + others_above) / ranks).sum())
    return precision_sum / r, expected_hits / r


def pmrp(
    scores: ArrayLike, query_labels: ArrayLike, item_labels: ArrayLike, distances: Sequence[int] = DISTANCES
) -> Floats:
    """Plausible-match R-precision of each query: items with nearly the query's class labels count as matches.

    Definition: the mean over ζ of the R-precision when an item is relevant whose labels differ from the query's in at
    most ζ classes; queries without such an item at a ζ are left out of its mean.

    Args:
        scores: [items] for one query or [queries, items]; −inf where an item was not ranked.
        query_labels: the classes of each query, bool [classes] or [queries, classes].
        item_labels: the classes of each item, bool [items, classes].
        distances: the values of ζ.

    Returns:
        float64 [queries], or a 0-d array for one query; NaN where no item is plausible at any ζ.

    Source: Chun et al., "Probabilistic embeddings for cross-modal retrieval", CVPR 2021, section 4.1.
    """
    if np.ndim(scores) == 1:
        return pmrp(np.asarray(scores)[None], np.asarray(query_labels)[None], item_labels, distances).reshape(())
    queries = np.asarray(query_labels, np.bool_).astype(np.float64)
    items = np.asarray(item_labels, np.bool_).astype(np.float64)
    # Classes that only the item has, plus classes that only the query has, [queries, items].
    differing: NDArray[np.float64] = queries @ (1 - items).T + (1 - queries) @ items.T
    values = np.stack([_plausible_precision(scores, differing <= zeta + 0.5) for zeta in distances])
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(values.shape[1], np.nan), where=known.any(0))


def _plausible_precision(scores: ArrayLike, matches: Bools) -> Floats:
    """R-precision of each query with these matches, ranked or not, as its positives."""
    return metrics_at_r(scores, matches, totals=matches.sum(1))["r_precision"]
