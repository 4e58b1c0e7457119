"""Losses that look at one item at a time. They also learn from a list without a relevant item."""

import torch
import torch.nn.functional as F

from xmrank.losses.list_batch import ListBatch
from xmrank.losses.loss_function import loss
from xmrank.losses.loss_parameters import RmseParameters
from xmrank.losses.loss_sum import LossSum


@loss()
def bce(batch: ListBatch) -> LossSum:
    """Binary cross-entropy of each item. Scores are logits, labels are from 0 to 1.

    Definition: Σ_i −y_i · log σ(s_i) − (1 − y_i) · log(1 − σ(s_i)), mean over the lists with an item.

    Source: the cross-entropy of a Bernoulli variable, as in Goodfellow et al., "Deep learning", 2016, section 6.2.2.2.
    """
    # From logits, not probabilities: the loss of a confident wrong score stays finite.
    losses = F.binary_cross_entropy_with_logits(batch.scores, batch.labels, reduction="none")
    return batch.average_lists(losses.masked_fill(~batch.mask, 0).sum(1), counted=batch.mask.any(1))


@loss(RmseParameters)
def rmse(batch: ListBatch, parameters: RmseParameters) -> LossSum:
    """Root of the mean squared error of a list.

    Definition: sqrt(mean_i (y_i − levels · s_i)²), mean over the lists with an item; the gradient of a list without
    error is 0.

    Source: Cossock and Zhang, "Subset ranking using regression", COLT 2006.
    """
    # The mean is over real items only: padding is filled with 0, and the sum divided by their number.
    squares = (batch.labels - parameters.levels * batch.scores).square()
    means = squares.masked_fill(~batch.mask, 0).sum(1) / batch.mask.sum(1).clamp(min=1)
    # The root has an infinite slope at 0: such a list goes through it as 1 and is set to 0 afterwards.
    exact = means == 0
    roots = means.masked_fill(exact, 1).sqrt().masked_fill(exact, 0)
    return batch.average_lists(roots, counted=batch.mask.any(1))


@loss(levels=True)
def ordinal(batch: ListBatch) -> LossSum:
    """Ordinal regression: one binary question a level, is the label at least that high? Labels are 0..levels.

    Definition: the mean over items of Σ_l BCE(s_il, [y_i ≥ l]) for l = 1..levels, mean over the lists with an item.

    Source: Niu et al., "Ordinal regression with multiple output CNN for age estimation", CVPR 2016.
    """
    # The target of level l is whether the label reaches it, [lists, items, levels].
    levels = torch.arange(1, batch.scores.shape[2] + 1, device=batch.scores.device)
    targets = (batch.labels.unsqueeze(2) >= levels).to(batch.scores.dtype)
    losses = F.binary_cross_entropy_with_logits(batch.scores, targets, reduction="none").sum(2)
    means = losses.masked_fill(~batch.mask, 0).sum(1) / batch.mask.sum(1).clamp(min=1)
    return batch.average_lists(means, counted=batch.mask.any(1))
