"""Losses that look at one item at a time. A list without a relevant item is a valid signal for them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xmrank.losses.list_batch import ListBatch, check_positive
from xmrank.losses.loss_sum import LossSum, loss


@loss
def bce(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> LossSum:
    """Binary cross-entropy of each item.

    Definition: Σ_i −y_i · log σ(s_i) − (1 − y_i) · log(1 − σ(s_i)), mean over lists.

    Args:
        scores: logits, [lists, items], any floating dtype.
        labels: relevance from 0 to 1, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has an item.

    Source: the cross-entropy of a Bernoulli variable, as in Goodfellow et al., "Deep learning", 2016, section 6.2.2.2.
    """
    slates = ListBatch.of(scores, labels, mask)
    losses = F.binary_cross_entropy_with_logits(slates.scores, slates.labels, reduction="none")
    return slates.mean(losses.masked_fill(~slates.mask, 0).sum(1), counted=slates.mask.any(1))


@loss
def rmse(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None, levels: float = 1) -> LossSum:
    """Root of the mean squared error of a list.

    Definition: sqrt(mean_i (y_i − levels · s_i)²), mean over lists; its gradient is 0 where the error is.

    Args:
        scores: predicted scores, [lists, items], any floating dtype.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        levels: what scores are multiplied by, so that an output in [0, 1] covers the labels 0..levels.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has an item.

    Source: Cossock and Zhang, "Subset ranking using regression", COLT 2006.
    """
    check_positive("levels", levels)
    slates = ListBatch.of(scores, labels, mask)
    squares = (slates.labels - levels * slates.scores).square()
    means = squares.masked_fill(~slates.mask, 0).sum(1) / slates.mask.sum(1).clamp(min=1)
    exact = means == 0
    return slates.mean(means.masked_fill(exact, 1).sqrt().masked_fill(exact, 0), counted=slates.mask.any(1))


@loss
def ordinal(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> LossSum:
    """Ordinal regression: one binary question a level, is the label at least that high?

    Definition: the mean over items of Σ_l BCE(s_il, [y_i ≥ l]) for l = 1..levels, mean over lists.

    Args:
        scores: logits, [lists, items, levels], any floating dtype.
        labels: relevance from 0 to levels, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has an item.

    Source: Niu et al., "Ordinal regression with multiple output CNN for age estimation", CVPR 2016.
    """
    slates = ListBatch.of(scores, labels, mask, levels=True)
    levels = torch.arange(1, scores.shape[2] + 1, device=scores.device)
    targets = (slates.labels.unsqueeze(2) >= levels).to(slates.scores.dtype)
    losses = F.binary_cross_entropy_with_logits(slates.scores, targets, reduction="none").sum(2)
    means = losses.masked_fill(~slates.mask, 0).sum(1) / slates.mask.sum(1).clamp(min=1)
    return slates.mean(means, counted=slates.mask.any(1))
