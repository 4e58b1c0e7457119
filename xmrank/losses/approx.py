"""NDCG made smooth: ranks become sums of sigmoids."""

import torch
from torch import Tensor

from xmrank.losses.pairs import Pairs
from xmrank.losses.slates import Slates, check_positive
from xmrank.losses.terms import Terms, loss


@loss
def approx_ndcg(
    scores: Tensor, labels: Tensor, *, mask: Tensor | None = None, alpha: float = 1.0, eps: float = 1e-10
) -> Terms:
    """Negative NDCG with approximated positions.

    Definition: −Σ_i G_i / log2(1 + rank_i) with rank_i = 1 + Σ_{j≠i} σ(−alpha · (s_i − s_j)) and
    G_i = (2^y_i − 1) / maxDCG, mean over lists.

    Args:
        scores: predicted scores, [lists, items], any floating dtype.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        alpha: steepness of the sigmoid; the larger, the closer to the true rank.
        eps: floor of each sigmoid and of maxDCG.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has a relevant
        item.

    Source: Qin, Liu and Li, "A general approximation framework for direct optimization of information retrieval
    measures", Information Retrieval 13, 2010, the position function and ApproxNDCG.
    """
    check_positive("alpha", alpha)
    slates = Slates.of(scores, labels, mask)
    ideal = slates.ideal_dcg(slates.gains()).clamp(min=eps)
    return slates.mean(-_smooth_dcg(slates, alpha, eps) / ideal)


@loss
def smooth_ndcg(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 0.01,
    reference_compatible: bool = False,
) -> Terms:
    """S-NDCG: one minus a smooth NDCG on graded relevance.

    Definition: 1 − Σ_i (2^y_i − 1) / log2(1 + rank_i) / IDCG with rank_i = 1 + Σ_{j≠i} σ((s_j − s_i) / temperature),
    mean over lists.

    Args:
        scores: predicted scores, [lists, items], any floating dtype; cosines suit the default temperature.
        labels: relevance, at least 0, [lists, items]; for image-text pairs the relevance scores of the paper.
        mask: True where an item is real, [lists, items]; None: all are.
        temperature: the smaller, the closer to the true rank.
        reference_compatible: for tests only: tied labels share their best rank in the IDCG, as in the paper's public
            code. The other fault of that code is in the labels it hands over: the rows of the image-to-text relevance
            also for the text-to-image lists, whose rows are the columns of the scores.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has a relevant
        item.

    Source: Li et al., "Integrating listwise ranking into pairwise-based image-text retrieval", 2023, S-NDCG.
    """
    check_positive("temperature", temperature)
    slates = Slates.of(scores, labels, mask)
    ideal = _shared_rank_dcg(slates) if reference_compatible else slates.ideal_dcg(slates.gains())
    return slates.mean(1 - _smooth_dcg(slates, 1 / temperature) / torch.where(ideal > 0, ideal, 1))


def _smooth_dcg(slates: Slates, steepness: float, floor: float = 0.0) -> Tensor:
    """Σ_i (2^y_i − 1) / log2(1 + rank_i) with ranks as sums of sigmoids, [lists]."""
    pairs = Pairs.of(slates)
    ahead = torch.sigmoid(-steepness * pairs.difference(slates.scores)).clamp(min=floor)
    others = ahead.masked_fill(~pairs.below(slates.mask), 0).sum(2)  # the item itself is in it, with σ(0) = 1/2
    gains = pairs.above(slates.gains()).squeeze(2)
    return (gains / torch.log2(1.5 + others)).sum(1)


def _shared_rank_dcg(slates: Slates) -> Tensor:
    """DCG of the ideal order when items of equal label all take the first of their ranks, [lists]."""
    pairs = Pairs.of(slates)
    higher = (pairs.difference(slates.labels) < 0).sum(2)
    return (pairs.above(slates.gains()).squeeze(2) * slates.discounts()[higher]).sum(1)
