"""NDCG made smooth: ranks become sums of sigmoids."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from xmrank.losses.item_pairs import ItemPairs
from xmrank.losses.list_batch import ListBatch
from xmrank.losses.loss_function import loss
from xmrank.losses.loss_parameters import ApproxNdcgParameters, SmoothNdcgParameters
from xmrank.losses.loss_sum import LossSum

CELLS = 1 << 20
"""Pairs of items held at a time where every item is relevant (4 MiB in float32, which a processor's cache holds)."""


@loss(ApproxNdcgParameters)
def approx_ndcg(batch: ListBatch, parameters: ApproxNdcgParameters) -> LossSum:
    """Negative NDCG with approximated positions.

    Definition: −Σ_i G_i / log2(1 + rank_i) with rank_i = 1 + Σ_{j≠i} σ(−alpha · (s_i − s_j)) and
    G_i = (2^y_i − 1) / maxDCG, mean over the lists with a relevant item.

    Source: Qin, Liu and Li, "A general approximation framework for direct optimization of information retrieval
    measures", Information Retrieval 13, 2010, the position function and ApproxNDCG.
    """
    # The true largest DCG: only the ranks of the predicted order are smooth.
    ideal = batch.ideal_dcg(batch.exponential_gains()).clamp(min=parameters.eps)
    return batch.average_lists(-_smooth_dcg(batch, parameters.alpha, parameters.eps) / ideal)


@loss(SmoothNdcgParameters)
def smooth_ndcg(batch: ListBatch, parameters: SmoothNdcgParameters, *, reference_compatible: bool = False) -> LossSum:
    """S-NDCG: one minus a smooth NDCG on graded relevance. Cosines suit the default temperature.

    Definition: 1 − Σ_i (2^y_i − 1) / log2(1 + rank_i) / IDCG with rank_i = 1 + Σ_{j≠i} σ((s_j − s_i) / temperature),
    mean over the lists with a relevant item. Where all items are relevant, as with the relevance of captions, memory is
    O(items²) a block of lists and not O(lists · items²): nothing of that size is kept for the gradient.

    Args:
        reference_compatible: for tests only: items of equal label all have the best of their ranks in the IDCG, as in
            the paper's public code. The other fault of that code is in its labels: the rows of the image-to-text
            relevance also for the text-to-image lists, whose rows are the columns of the scores.

    Source: Li et al., "Integrating listwise ranking into pairwise-based image-text retrieval", 2023, S-NDCG.
    """
    ideal = _best_rank_dcg(batch) if reference_compatible else batch.ideal_dcg(batch.exponential_gains())
    return batch.average_lists(1 - _smooth_dcg(batch, 1 / parameters.temperature) / torch.where(ideal > 0, ideal, 1))


def _smooth_dcg(batch: ListBatch, steepness: float, floor: float = 0.0) -> Tensor:
    """Σ_i (2^y_i − 1) / log2(1 + rank_i) with ranks as sums of sigmoids, [lists]."""
    pairs = ItemPairs.from_batch(batch)
    gains = batch.exponential_gains()
    # Many pairs: block by block, without a floor, which only approx_ndcg has.
    if floor == 0 and pairs.first.numel() * batch.items > CELLS:
        ahead = ItemsAhead.apply(batch.scores, batch.mask, steepness)
        return (gains / torch.log2(1.5 + ahead)).sum(1)
    sigmoids = torch.sigmoid(-steepness * pairs.value_differences(batch.scores)).clamp(min=floor)
    # The item itself is in the sum, with σ(0) = 1/2: hence 1.5 + Σ for 1 + rank.
    ahead = sigmoids.masked_fill(~pairs.second_values(batch.mask), 0).sum(2)
    return (pairs.first_values(gains).squeeze(2) / torch.log2(1.5 + ahead)).sum(1)


class ItemsAhead(torch.autograd.Function):
    """Σ_j σ(steepness · (s_j − s_i)) over the real items j of a list, i itself included, [lists, items].

    Its gradient is computed from the scores once more, a block of lists at a time, and not from stored sigmoids.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor, steepness: float) -> Tensor:
        """Args: scores, mask: [lists, items]."""
        ctx.save_for_backward(scores, mask)
        ctx.steepness = steepness
        real = mask.to(scores.dtype).unsqueeze(2)
        result = torch.empty_like(scores)  # small parts, gathered, would fragment the memory that blocks leave free
        for rows, sigmoids in _sigmoid_blocks(scores, steepness):
            result[rows] = torch.bmm(sigmoids, real[rows]).squeeze(2)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """With slope_ij = ∂σ_ij/∂s_j = −∂σ_ij/∂s_i: Σ_i g_i slope_ik m_k − g_k Σ_j slope_kj m_j at item k."""
        scores, mask = ctx.saved_tensors
        (given,) = gradients
        real, result = mask.to(scores.dtype), torch.empty_like(scores)
        for rows, sigmoids in _sigmoid_blocks(scores, ctx.steepness):
            # steepness · σ · (1 − σ), in the memory that one block needs anyway.
            slope = torch.addcmul(sigmoids, sigmoids, sigmoids, value=-1).mul_(ctx.steepness)
            gained = torch.bmm(given[rows].unsqueeze(1), slope).squeeze(1) * real[rows]
            result[rows] = gained - given[rows] * torch.bmm(slope, real[rows].unsqueeze(2)).squeeze(2)
        return result, None, None


def _sigmoid_blocks(scores: Tensor, steepness: float) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of lists, and σ(steepness · (s_j − s_i)) at [i, j] of their items, [block, items, items]."""
    size = max(1, CELLS // max(scores.shape[1] ** 2, 1))
    for start in range(0, len(scores), size):
        rows = slice(start, start + size)
        yield rows, (scores[rows].unsqueeze(1) - scores[rows].unsqueeze(2)).mul_(steepness).sigmoid_()


def _best_rank_dcg(batch: ListBatch) -> Tensor:
    """DCG of the ideal order when items of equal label all have the first of their ranks, [lists]."""
    pairs = ItemPairs.from_batch(batch)
    # As many items have a higher label as there are ranks before the first of this label's.
    higher = (pairs.value_differences(batch.labels) < 0).sum(2)
    gains = pairs.first_values(batch.exponential_gains()).squeeze(2)
    return (gains * batch.rank_discounts()[higher]).sum(1)
