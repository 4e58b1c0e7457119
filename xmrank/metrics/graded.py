"""Metrics for data sets with more judgements than one positive: mAP@R, R-precision, plausible-match R-precision.

Like all metrics here they are expectations over random orders of equal scores, one value a query.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ties import Bools, Floats

DISTANCES = (0, 1, 2)
"""Label differences up to which a match is plausible; PMRP is the mean over them."""


def at_r(scores: ArrayLike, relevant: ArrayLike, totals: ArrayLike | None = None) -> dict[str, Floats]:
    """mAP@R and R-precision of each query, R being the number of its positives.

    Definitions: r_precision is the share of positives in the top R; map@r is (1/R) Σ_{i ≤ R} rel_i · precision@i.

    Args:
        scores: [queries, items], any floating dtype; −inf where an item is not ranked.
        relevant: bool [queries, items].
        totals: positives of each query, ranked or not, integers [queries]; None: those that are ranked.

    Returns:
        map@r and r_precision, float64 [queries]; NaN where a query has no positive.

    Raises:
        ValueError: the shapes disagree, a score is NaN, or a total is below what is ranked or above the items.

    Source: Musgrave et al., "A metric learning reality check", ECCV 2020; for captions Chun et al., "ECCV Caption:
        correcting false negatives by collecting machine-and-human-verified image-caption associations", ECCV 2022.
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(relevant, np.bool_)
    if values.ndim != 2 or labels.shape != values.shape:
        raise ValueError(f"scores {values.shape}, relevant {labels.shape}; expected one shape [queries, items]")
    if np.isnan(values).any():
        raise ValueError("scores are NaN")
    found = (labels & (values > -np.inf)).sum(1)
    counts = found if totals is None else np.asarray(totals)
    if counts.shape != found.shape or (counts < found).any() or (counts > values.shape[1]).any():
        raise ValueError(f"totals: expected one a query, from its ranked positives to {values.shape[1]} items")
    pairs = [_of_query(row, hit, int(r)) for row, hit, r in zip(values, labels, counts, strict=True)]
    result = np.array(pairs, np.float64).reshape(-1, 2)
    return {"map@r": result[:, 0], "r_precision": result[:, 1]}


def _of_query(scores: Floats, relevant: Bools, r: int) -> tuple[float, float]:
    """mAP@R and R-precision of one query, tie group by tie group.

    In a group of g items with p positives behind c positives, the place at rank i, the t-th of the group, is positive
    with probability p/g, and then has c + 1 + (t − 1)(p − 1)/(g − 1) positives up to it.
    """
    if r == 0:
        return np.nan, np.nan
    ranked = scores > -np.inf
    order = np.argsort(-scores[ranked], kind="stable")
    keys, hits = scores[ranked][order], relevant[ranked][order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    precision = found = 0.0
    for start, stop in zip(starts, np.append(starts[1:], len(keys)), strict=True):
        if start >= r:
            break
        size, positives, before = stop - start, int(hits[start:stop].sum()), int(hits[:start].sum())
        ranks = np.arange(start + 1, min(stop, r) + 1)
        share = positives / size
        company = (ranks - start - 1) * ((positives - 1) / (size - 1) if size > 1 else 0.0)
        found += share * len(ranks)
        precision += float((share * (before + 1 + company) / ranks).sum())
    return precision / r, found / r


def pmrp(
    scores: ArrayLike, query_labels: ArrayLike, item_labels: ArrayLike, distances: Sequence[int] = DISTANCES
) -> Floats:
    """Plausible-match R-precision of each query: items with nearly the query's class labels count as matches.

    Definition: the mean over ζ of the R-precision when an item is relevant whose labels differ from the query's in at
    most ζ classes; queries without such an item at a ζ are left out of its mean.

    Args:
        scores: [queries, items]; −inf where an item is not ranked.
        query_labels, item_labels: which classes each has, bool [queries, classes] and [items, classes].
        distances: the values of ζ.

    Returns:
        float64 [queries]; NaN where no item is plausible at any ζ.

    Source: Chun et al., "Probabilistic embeddings for cross-modal retrieval", CVPR 2021, section 4.1.
    """
    asking, found = (np.asarray(labels, np.bool_).astype(np.float64) for labels in (query_labels, item_labels))
    differing: NDArray[np.float64] = asking @ (1 - found).T + (1 - asking) @ found.T
    plausible = [differing <= zeta + 0.5 for zeta in distances]
    values = np.stack([at_r(scores, matches, matches.sum(1))["r_precision"] for matches in plausible])
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(values.shape[1], np.nan), where=known.any(0))
