"""Losses that compare the items of a list two by two: RankNet and the triplet hinge."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xmrank.losses.item_pairs import ItemPairs
from xmrank.losses.list_batch import ListBatch, check_choice
from xmrank.losses.loss_sum import LossSum, loss


@loss
def ranknet(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Literal["diff", "diff_squares"] | None = None,
) -> LossSum:
    """Pairwise logistic loss.

    Definition: the mean of w_ij · softplus(−(s_i − s_j)) over all pairs of the batch with y_i > y_j.

    Args:
        scores: predicted scores, [lists, items], any floating dtype.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        weight: w_ij: None is 1, "diff" y_i − y_j, "diff_squares" y_i² − y_j².

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no pair is ordered.

    Source: Burges et al., "Learning to rank using gradient descent", ICML 2005, eq. 3.
    """
    check_choice("weight", weight, (None, "diff", "diff_squares"))
    pairs = ItemPairs.of(slates := ListBatch.of(scores, labels, mask))
    ordered = pairs.ordered()
    losses = -F.logsigmoid(pairs.difference(slates.scores))
    if weight is not None:
        losses = losses * pairs.difference(slates.labels if weight == "diff" else slates.labels.square())
    return LossSum(losses.masked_fill(~ordered, 0).sum((1, 2)), ordered.sum((1, 2)).to(losses.dtype))


@loss
def triplet(
    scores: Tensor, labels: Tensor, *, mask: Tensor | None = None, margin: float = 0.2, hardest: bool = True
) -> LossSum:
    """Triplet hinge of each relevant item against the items below it.

    Definition: the mean over the list's relevant items i of max_j, or Σ_j, of max(0, margin + s_j − s_i), where j runs
    over the items with y_j < y_i; the mean of that over lists.

    Args:
        scores: predicted scores, [lists, items], any floating dtype.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        margin: by how much a relevant item should be ahead.
        hardest: only the highest-scored j of each i counts; otherwise all do.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has a relevant
        item.

    Source: Faghri et al., "VSE++: improving visual-semantic embeddings with hard negatives", BMVC 2018, eq. 5 (all) and
    eq. 6 (hardest).
    """
    pairs = ItemPairs.of(slates := ListBatch.of(scores, labels, mask))
    hinges = F.relu(margin - pairs.difference(slates.scores)).masked_fill(~pairs.ordered(), 0)
    per_item = hinges.amax(2) if hardest else hinges.sum(2)
    relevant_items = (slates.labels > 0).sum(1)
    return slates.mean(per_item.sum(1) / torch.clamp(relevant_items, min=1))
