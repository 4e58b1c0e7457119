"""NDCG made smooth: ranks become sums of sigmoids."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from xmrank.losses.item_pairs import ItemPairs
from xmrank.losses.list_batch import ListBatch, check_positive
from xmrank.losses.loss_sum import LossSum, loss

_CELLS = 1 << 20
"""Pairs of items held at a time where every item is relevant (4 MiB in float32, which a processor's cache holds)."""


@loss
def approx_ndcg(
    scores: Tensor, labels: Tensor, *, mask: Tensor | None = None, alpha: float = 1.0, eps: float = 1e-10
) -> LossSum:
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
    slates = ListBatch.of(scores, labels, mask)
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
) -> LossSum:
    """S-NDCG: one minus a smooth NDCG on graded relevance.

    Definition: 1 − Σ_i (2^y_i − 1) / log2(1 + rank_i) / IDCG with rank_i = 1 + Σ_{j≠i} σ((s_j − s_i) / temperature),
    mean over lists. Where all items are relevant, as with the relevance of captions, memory is O(items²) a block of
    lists and not O(lists · items²): nothing of that size is kept for the gradient.

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
    slates = ListBatch.of(scores, labels, mask)
    ideal = _shared_rank_dcg(slates) if reference_compatible else slates.ideal_dcg(slates.gains())
    return slates.mean(1 - _smooth_dcg(slates, 1 / temperature) / torch.where(ideal > 0, ideal, 1))


def _smooth_dcg(slates: ListBatch, steepness: float, floor: float = 0.0) -> Tensor:
    """Σ_i (2^y_i − 1) / log2(1 + rank_i) with ranks as sums of sigmoids, [lists]."""
    pairs = ItemPairs.of(slates)
    if floor == 0 and pairs.first.numel() * slates.items > _CELLS:
        return (slates.gains() / torch.log2(1.5 + _Ahead.apply(slates.scores, slates.mask, steepness))).sum(1)
    ahead = torch.sigmoid(-steepness * pairs.difference(slates.scores)).clamp(min=floor)
    others = ahead.masked_fill(~pairs.below(slates.mask), 0).sum(2)  # the item itself is in it, with σ(0) = 1/2
    gains = pairs.above(slates.gains()).squeeze(2)
    return (gains / torch.log2(1.5 + others)).sum(1)


class _Ahead(torch.autograd.Function):
    """Σ_j σ(steepness · (s_j − s_i)) over the real items j of a list, i itself among them, [lists, items].

    Its gradient is computed from the scores once more, a block of lists at a time, instead of from what was kept.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor, steepness: float) -> Tensor:
        """Args: scores, mask: [lists, items]."""
        ctx.save_for_backward(scores, mask)
        ctx.steepness = steepness
        real = mask.to(scores.dtype).unsqueeze(2)
        result = torch.empty_like(scores)  # small parts, gathered, would fragment the memory that blocks leave free
        for rows, ahead in _blocks(scores, steepness):
            result[rows] = torch.bmm(ahead, real[rows]).squeeze(2)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """With slope_ij = ∂ahead_ij/∂s_j = −∂ahead_ij/∂s_i: Σ_i g_i slope_ik m_k − g_k Σ_j slope_kj m_j at item k."""
        scores, mask = ctx.saved_tensors
        (given,) = gradients
        real, result = mask.to(scores.dtype), torch.empty_like(scores)
        for rows, ahead in _blocks(scores, ctx.steepness):
            slope = torch.addcmul(ahead, ahead, ahead, value=-1).mul_(ctx.steepness)
            gained = torch.bmm(given[rows].unsqueeze(1), slope).squeeze(1) * real[rows]
            result[rows] = gained - given[rows] * torch.bmm(slope, real[rows].unsqueeze(2)).squeeze(2)
        return result, None, None


def _blocks(scores: Tensor, steepness: float) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of lists and σ(steepness · (s_j − s_i)) at [i, j] of their items, [block, items, items]."""
    size = max(1, _CELLS // max(scores.shape[1] ** 2, 1))
    for start in range(0, len(scores), size):
        rows = slice(start, start + size)
        yield rows, (scores[rows].unsqueeze(1) - scores[rows].unsqueeze(2)).mul_(steepness).sigmoid_()


def _shared_rank_dcg(slates: ListBatch) -> Tensor:
    """DCG of the ideal order when items of equal label all take the first of their ranks, [lists]."""
    pairs = ItemPairs.of(slates)
    higher = (pairs.difference(slates.labels) < 0).sum(2)
    return (pairs.above(slates.gains()).squeeze(2) * slates.discounts()[higher]).sum(1)
