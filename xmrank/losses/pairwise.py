"""Losses that compare the items of a list two by two: RankNet and the triplet hinge."""

import torch
import torch.nn.functional as F

from xmrank.losses.item_pairs import ItemPairs
from xmrank.losses.list_batch import ListBatch
from xmrank.losses.loss_function import loss
from xmrank.losses.loss_parameters import RankNetParameters, TripletParameters
from xmrank.losses.loss_sum import LossSum


@loss(RankNetParameters)
def ranknet(batch: ListBatch, parameters: RankNetParameters) -> LossSum:
    """Pairwise logistic loss.

    Definition: the mean of w_ij · softplus(−(s_i − s_j)) over all pairs of the batch with y_i > y_j. So a list counts
    in the mean as often as it has such pairs; the value of a single list is the mean over its own.

    Source: Burges et al., "Learning to rank using gradient descent", ICML 2005, eq. 3.
    """
    pairs = ItemPairs.from_batch(batch)
    ordered = pairs.ordered_pairs()
    losses = -F.logsigmoid(pairs.value_differences(batch.scores))
    # −log σ(x) is softplus(−x); the weights are positive at ordered pairs, and the others are filled below.
    if parameters.weighting == "diff":
        losses = losses * pairs.value_differences(batch.labels)
    if parameters.weighting == "diff_squares":
        losses = losses * pairs.value_differences(batch.labels.square())
    # The denominator is the number of pairs: the value is a mean over pairs, not over lists.
    return LossSum(losses.masked_fill(~ordered, 0).sum((1, 2)), ordered.sum((1, 2)).to(losses.dtype))


@loss(TripletParameters)
def triplet(batch: ListBatch, parameters: TripletParameters) -> LossSum:
    """Triplet hinge of each relevant item against the items below it.

    Definition: the mean over the list's relevant items i of max_j, or Σ_j, of max(0, margin + s_j − s_i), where j runs
    over the items with y_j < y_i; the mean of that over the lists with a relevant item.

    Source: Faghri et al., "VSE++: improving visual-semantic embeddings with hard negatives", BMVC 2018, eq. 5 (all) and
    eq. 6 (hardest).
    """
    pairs = ItemPairs.from_batch(batch)
    # A hinge for each relevant item i and each j; 0 where j is not below i, which neither max nor sum notices.
    hinges = F.relu(parameters.margin - pairs.value_differences(batch.scores))
    hinges = hinges.masked_fill(~pairs.ordered_pairs(), 0)
    per_item = hinges.amax(2) if parameters.hardest else hinges.sum(2)
    relevant_items = (batch.labels > 0).sum(1)
    return batch.average_lists(per_item.sum(1) / torch.clamp(relevant_items, min=1))
