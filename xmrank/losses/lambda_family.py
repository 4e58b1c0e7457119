"""The LambdaLoss family: pairwise log-losses weighted by what a swap would change in NDCG."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from xmrank.losses.item_pairs import ItemPairs
from xmrank.losses.list_batch import ListBatch
from xmrank.losses.loss_function import loss
from xmrank.losses.loss_parameters import LambdaLossParameters, LambdaRankParameters, LambdaWeighting
from xmrank.losses.loss_sum import LossSum


@loss(LambdaLossParameters)
def lambda_loss(batch: ListBatch, parameters: LambdaLossParameters) -> LossSum:
    """Metric-driven pairwise losses of the LambdaLoss framework. Tied scores rank by position.

    Definition: −Σ w_ij · log σ(sigma · (s_i − s_j)) over the pairs with y_i > y_j whose items are both in the predicted
    top k. With G_i = (2^y_i − 1) / maxDCG@k, D_r = log2(1 + r) and i, j standing for predicted ranks, w_ij is
        "none"         1
        "ndcg1"        G_i / D_i, and the pairs are all i and j, i = j and y_i ≤ y_j included
        "ndcg2"        |1/D_|i−j| − 1/D_(|i−j|+1)| · |G_i − G_j|
        "lambdarank"   |1/D_i − 1/D_j| · |G_i − G_j|
        "ndcg2pp"      mu · ndcg2 + lambdarank
        "gt_diff"      |y_i − y_j|
        "gt_diff_pow"  |y_i² − y_j²|
    The logarithm is a log-sigmoid without a floor: a badly ordered pair keeps its gradient. By default the value of a
    batch is the sum over its lists; with reduction "mean" it is the mean over all pairs of the batch.

    Source: Wang et al., "The LambdaLoss framework for ranking metric optimization", CIKM 2018: NDCG-Loss1, NDCG-Loss2,
    NDCG-Loss2++ and LambdaRank as a loss.
    """
    return _sum_pairs(batch, parameters, parameters.weighting, parameters.mu)


@loss(LambdaRankParameters)
def lambdarank(batch: ListBatch, parameters: LambdaRankParameters) -> LossSum:
    """LambdaRank: `lambda_loss` with the "lambdarank" weighting. Tied scores rank by position.

    Definition: −Σ |1/D_i − 1/D_j| · |G_i − G_j| · log σ(sigma · (s_i − s_j)) over the pairs with y_i > y_j.
    By default the value of a batch is the sum over its lists; with reduction "mean" the mean over all its pairs.

    Source: Burges et al., "Learning to rank with nonsmooth cost functions", NIPS 2006; as a loss: Wang et al., "The
    LambdaLoss framework for ranking metric optimization", CIKM 2018.
    """
    return _sum_pairs(batch, parameters, "lambdarank")


def _sum_pairs(
    batch: ListBatch, parameters: LambdaRankParameters, weighting: LambdaWeighting, mu: float = 0.0
) -> LossSum:
    """The weighted log-losses of each list's pairs, and the number of these pairs."""
    pairs = ItemPairs.from_batch(batch)
    ranks, gains = batch.rank_items(), batch.exponential_gains()
    # The pairs that count: both items in the predicted top k, and, but for ndcg1, in the order of their labels.
    within = batch.mask if parameters.k is None else batch.mask & (ranks <= parameters.k)
    chosen = pairs.both_true(within)
    if weighting != "ndcg1":
        chosen = chosen & pairs.ordered_pairs()
    # Weights: gains are divided by the largest DCG, so that every list's are of one size.
    ideal = batch.ideal_dcg(gains, parameters.k).clamp(min=parameters.eps)
    weights = WEIGHTINGS[weighting](PredictedOrder(pairs, gains / ideal.unsqueeze(1), ranks, mu))
    # Weighted log-losses of all pairs; those that do not count are filled with 0.
    losses = -weights * F.logsigmoid(parameters.sigma * pairs.value_differences(batch.scores))
    total = losses.masked_fill(~chosen, 0).sum((1, 2)) / (math.log(2) if parameters.log_base == 2 else 1)
    if weighting == "ndcg1":  # pairs of an i without gain add 0 and are not among the chosen, but they count
        count = within.sum(1).square() * batch.has_relevant
    else:
        count = chosen.sum((1, 2))
    return LossSum(total, count.to(total.dtype), parameters.reduction)


@dataclass(frozen=True)
class PredictedOrder:
    """What a weighting may look at. No weight has a gradient: they depend on the labels and on the order alone."""

    pairs: ItemPairs
    gains: Tensor
    """g(y) / maxDCG@k, [lists, items]."""
    ranks: Tensor
    """Predicted rank from 1, int64 [lists, items]."""
    mu: float

    def gain_differences(self) -> Tensor:
        """|G_i − G_j|, [lists, P, items]."""
        return self.pairs.value_differences(self.gains).abs()

    def item_discounts(self) -> Tensor:
        """The discount of each item at its predicted rank, [lists, items]."""
        return self.pairs.batch.rank_discounts()[self.ranks - 1]


def _equal_weights(order: PredictedOrder) -> Tensor:
    return order.gains.new_ones(())


def _ndcg1_weights(order: PredictedOrder) -> Tensor:
    return order.pairs.first_values(order.gains * order.item_discounts())


def _ndcg2_weights(order: PredictedOrder) -> Tensor:
    # The discount of the rank distance, minus that of the next distance.
    discounts = order.pairs.batch.rank_discounts()
    steps = F.pad(discounts[:-1] - discounts[1:], (1, 0))  # by |i − j|, of which 0 is no pair
    return steps[order.pairs.value_differences(order.ranks).abs()] * order.gain_differences()


def _lambdarank_weights(order: PredictedOrder) -> Tensor:
    return order.pairs.value_differences(order.item_discounts()).abs() * order.gain_differences()


def _ndcg2pp_weights(order: PredictedOrder) -> Tensor:
    return order.mu * _ndcg2_weights(order) + _lambdarank_weights(order)


def _label_difference_weights(order: PredictedOrder) -> Tensor:
    return order.pairs.value_differences(order.pairs.batch.labels)


def _square_difference_weights(order: PredictedOrder) -> Tensor:
    return order.pairs.value_differences(order.pairs.batch.labels.square())


WEIGHTINGS: dict[LambdaWeighting, Callable[[PredictedOrder], Tensor]] = {
    "none": _equal_weights,
    "ndcg1": _ndcg1_weights,
    "ndcg2": _ndcg2_weights,
    "lambdarank": _lambdarank_weights,
    "ndcg2pp": _ndcg2pp_weights,
    "gt_diff": _label_difference_weights,
    "gt_diff_pow": _square_difference_weights,
}
