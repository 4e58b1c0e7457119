"""The LambdaLoss family: pairwise log-losses weighted by what a swap would change in NDCG."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from xmrank.losses.item_pairs import ItemPairs
from xmrank.losses.list_batch import ListBatch, check_choice, check_k, check_positive
from xmrank.losses.loss_sum import LossSum, Reduction, loss

WeightingName = Literal["none", "ndcg1", "ndcg2", "lambdarank", "ndcg2pp", "gt_diff", "gt_diff_pow"]


@dataclass(frozen=True)
class _Ranking:
    """What a weighting may look at. No weight has a gradient: they depend on the labels and on the order alone."""

    pairs: ItemPairs
    gains: Tensor  # g(y) / maxDCG@k, [lists, items]
    ranks: Tensor  # predicted rank from 1, [lists, items]
    mu: float

    def gain_difference(self) -> Tensor:
        return self.pairs.difference(self.gains).abs()

    def discounts(self) -> Tensor:
        """The discount of each item at its predicted rank, [lists, items]."""
        return self.pairs.slates.discounts()[self.ranks - 1]


def _none(ranking: _Ranking) -> Tensor:
    return ranking.gains.new_ones(())


def _ndcg1(ranking: _Ranking) -> Tensor:
    return ranking.pairs.above(ranking.gains * ranking.discounts())


def _ndcg2(ranking: _Ranking) -> Tensor:
    discounts = ranking.pairs.slates.discounts()
    steps = F.pad(discounts[:-1] - discounts[1:], (1, 0))  # by |i − j|, of which 0 is no pair
    return steps[ranking.pairs.difference(ranking.ranks).abs()] * ranking.gain_difference()


def _lambdarank(ranking: _Ranking) -> Tensor:
    return ranking.pairs.difference(ranking.discounts()).abs() * ranking.gain_difference()


def _ndcg2pp(ranking: _Ranking) -> Tensor:
    return ranking.mu * _ndcg2(ranking) + _lambdarank(ranking)


def _gt_diff(ranking: _Ranking) -> Tensor:
    return ranking.pairs.difference(ranking.pairs.slates.labels)


def _gt_diff_pow(ranking: _Ranking) -> Tensor:
    return ranking.pairs.difference(ranking.pairs.slates.labels.square())


WEIGHTINGS: dict[str, Callable[[_Ranking], Tensor]] = {
    "none": _none,
    "ndcg1": _ndcg1,
    "ndcg2": _ndcg2,
    "lambdarank": _lambdarank,
    "ndcg2pp": _ndcg2pp,
    "gt_diff": _gt_diff,
    "gt_diff_pow": _gt_diff_pow,
}


@loss
def lambda_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    weighting: WeightingName = "lambdarank",
    k: int | None = None,
    sigma: float = 1.0,
    mu: float = 10.0,
    reduction: Reduction = "sum",
    log_base: Literal[2, "e"] = 2,
    eps: float = 1e-10,
) -> LossSum:
    """Metric-driven pairwise losses of the LambdaLoss framework.

    Definition: −Σ w_ij · log σ(sigma · (s_i − s_j)) over the pairs with y_i > y_j whose items are both in the predicted
    top k. With G_i = (2^y_i − 1) / maxDCG@k, D_r = log2(1 + r) and i, j standing for predicted ranks, w_ij is
        "none"         1
        "ndcg1"        G_i / D_i, and the pairs are all i and j, i = j and y_i ≤ y_j included
        "ndcg2"        |1/D_|i−j| − 1/D_(|i−j|+1)| · |G_i − G_j|
        "lambdarank"   |1/D_i − 1/D_j| · |G_i − G_j|
        "ndcg2pp"      mu · ndcg2 + lambdarank
        "gt_diff"      |y_i − y_j|
        "gt_diff_pow"  |y_i² − y_j²|
    The logarithm is a log-sigmoid without a floor: a badly ordered pair keeps its gradient.

    Args:
        scores: predicted scores, [lists, items], any floating dtype. Tied scores rank by position.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        weighting: one of the names above.
        k: length of the predicted top that counts; None: all of it.
        sigma: steepness of the sigmoid.
        mu: share of ndcg2 in "ndcg2pp".
        reduction: "sum" over the batch, or "mean" over all its pairs.
        log_base: 2, or "e" for the natural logarithm.
        eps: floor of maxDCG@k.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where there is no pair.

    Source: Wang et al., "The LambdaLoss framework for ranking metric optimization", CIKM 2018: NDCG-Loss1, NDCG-Loss2,
    NDCG-Loss2++ and LambdaRank as a loss.
    """
    check_choice("weighting", weighting, tuple(WEIGHTINGS))
    check_choice("reduction", reduction, ("sum", "mean"))
    check_choice("log_base", log_base, (2, "e"))
    check_k(k)
    check_positive("sigma", sigma)
    pairs = ItemPairs.of(slates := ListBatch.of(scores, labels, mask))
    ranks, gains = slates.ranks(), slates.gains()
    within = slates.mask if k is None else slates.mask & (ranks <= k)
    chosen = pairs.both(within) if weighting == "ndcg1" else pairs.both(within) & pairs.ordered()
    normalised = gains / slates.ideal_dcg(gains, k).clamp(min=eps).unsqueeze(1)
    weights = WEIGHTINGS[weighting](_Ranking(pairs, normalised, ranks, mu))
    losses = -weights * F.logsigmoid(sigma * pairs.difference(slates.scores))
    total = losses.masked_fill(~chosen, 0).sum((1, 2)) / (math.log(2) if log_base == 2 else 1)
    if weighting == "ndcg1":  # pairs of an i without gain are not among the chosen, since they add 0, but they count
        count = within.sum(1).square() * slates.relevant
    else:
        count = chosen.sum((1, 2))
    return LossSum(total, count.to(total.dtype), reduction)


@loss
def lambdarank(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    k: int | None = None,
    sigma: float = 1.0,
    reduction: Reduction = "sum",
    log_base: Literal[2, "e"] = 2,
    eps: float = 1e-10,
) -> LossSum:
    """LambdaRank: `lambda_loss` with the "lambdarank" weighting.

    Definition: −Σ |1/D_i − 1/D_j| · |G_i − G_j| · log σ(sigma · (s_i − s_j)) over the pairs with y_i > y_j.

    Args:
        scores: predicted scores, [lists, items], any floating dtype. Tied scores rank by position.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        k: length of the predicted top that counts; None: all of it.
        sigma: steepness of the sigmoid.
        reduction: "sum" over the batch, or "mean" over all its pairs.
        log_base: 2, or "e" for the natural logarithm.
        eps: floor of maxDCG@k.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no pair is ordered.

    Source: Burges et al., "Learning to rank with nonsmooth cost functions", NIPS 2006; as a loss: Wang et al., "The
    LambdaLoss framework for ranking metric optimization", CIKM 2018.
    """
    return lambda_loss.terms(
        scores,
        labels,
        mask=mask,
        weighting="lambdarank",
        k=k,
        sigma=sigma,
        reduction=reduction,
        log_base=log_base,
        eps=eps,
    )
