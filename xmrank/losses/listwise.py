"""Losses on the softmax of a whole list: ListNet, ListMLE and softmax cross-entropy."""

import math
from typing import Literal

import torch
from torch import Tensor

from xmrank.losses.list_batch import ListBatch, check_choice
from xmrank.losses.loss_sum import LossSum, loss


@loss
def listnet(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None, eps: float = 1e-10) -> LossSum:
    """Top-one cross-entropy between the softmax of the labels and that of the scores.

    Definition: −Σ_i softmax(y)_i · log(softmax(s)_i + eps), mean over lists.

    Args:
        scores: predicted scores, [lists, items], any floating dtype.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        eps: added to each predicted probability.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has a relevant
        item.

    Source: Cao et al., "Learning to rank: from pairwise approach to listwise approach", ICML 2007, section 4.2 (top-one
    probability) and 5 (ListNet).
    """
    slates = ListBatch.of(scores, labels, mask)
    targets = slates.labels.masked_fill(~slates.mask, float("-inf"))
    targets = targets.masked_fill(~slates.relevant.unsqueeze(1), 0).softmax(1)
    return slates.mean(_cross_entropy(slates, targets, eps))


@loss
def listnet_binary(scores: Tensor, labels: Tensor, *, mask: Tensor | None = None, eps: float = 1e-10) -> LossSum:
    """ListNet for binary relevance: the target is shared equally by the relevant items.

    Definition: −Σ_i y_i / Σy · log(softmax(s)_i + eps), mean over lists.

    Args:
        scores: predicted scores, [lists, items], any floating dtype.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        eps: added to each predicted probability.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has a relevant
        item.

    Source: Cao et al., "Learning to rank: from pairwise approach to listwise approach", ICML 2007, section 5, with the
    labels themselves as target distribution.
    """
    slates = ListBatch.of(scores, labels, mask)
    sums = slates.labels.sum(1, keepdim=True)
    return slates.mean(_cross_entropy(slates, slates.labels / torch.where(sums > 0, sums, 1), eps))


def _cross_entropy(slates: ListBatch, targets: Tensor, eps: float) -> Tensor:
    """−Σ target · log(softmax(s) + eps) of each list, in logarithms so that eps may be 0."""
    logs = slates.filled(slates.lowest()).log_softmax(1)
    logs = torch.logaddexp(logs, torch.full_like(logs, math.log(eps) if eps > 0 else -math.inf))
    return -(targets * logs).masked_fill(~slates.mask, 0).sum(1)


@loss
def listmle(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    eps: float = 1e-10,
) -> LossSum:
    """Likelihood of the order of the labels under the Plackett–Luce model of the scores.

    Definition: with the items in descending order of label and z = s − max s, Σ_r log(Σ_{q ≥ r} e^z_q + eps) − z_r,
    mean over lists.

    Args:
        scores: predicted scores, [lists, items], any floating dtype.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        generator: shuffles items of equal label; None: they keep their positions.
        eps: added to each sum of exponentials.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has a relevant
        item.

    Source: Xia et al., "Listwise approach to learning to rank: theory and algorithm", ICML 2008, the likelihood loss.
    """
    slates = ListBatch.of(scores, labels, mask)
    order = _label_order(slates, generator)
    real = slates.mask.gather(1, order)
    peak = slates.filled(float("-inf")).max(1, keepdim=True).values
    peak = peak.masked_fill(peak.isinf(), 0)  # of a list that is all padding
    heights = (slates.scores.gather(1, order) - peak).masked_fill(~real, 0)
    tails = heights.exp().masked_fill(~real, 0).flip(1).cumsum(1).flip(1)
    return slates.mean(((tails + eps).log() - heights).masked_fill(~real, 0).sum(1))


def _label_order(slates: ListBatch, generator: torch.Generator | None) -> Tensor:
    """Positions of the items by descending label, padding last, [lists, items]."""
    keys = slates.labels.masked_fill(~slates.mask, -1)
    if generator is None:
        return keys.argsort(dim=1, descending=True, stable=True)
    shuffle = torch.rand(keys.shape, generator=generator, device=keys.device).argsort(dim=1)
    return shuffle.gather(1, keys.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))


@loss
def softmax(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    multi_positive: Literal["each", "mass"] = "each",
) -> LossSum:
    """Softmax cross-entropy; with one positive a list this is InfoNCE.

    Definition: "each": −Σ_i y_i · log softmax(s)_i; "mass": −log Σ_{y_i > 0} softmax(s)_i; mean over lists.

    Args:
        scores: predicted scores, [lists, items], any floating dtype.
        labels: relevance, at least 0, [lists, items]; not normalised.
        mask: True where an item is real, [lists, items]; None: all are.
        multi_positive: "each" relevant item should win on its own; for "mass" it is enough that together they do.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has a relevant
        item.

    Source: Bruch et al., "An analysis of the softmax cross entropy loss for learning-to-rank with binary relevance",
    ICTIR 2019; "mass": Miech et al., "End-to-end learning of visual representations from uncurated instructional
    videos", CVPR 2020, eq. 1 (MIL-NCE).
    """
    check_choice("multi_positive", multi_positive, ("each", "mass"))
    slates = ListBatch.of(scores, labels, mask)
    logs = slates.filled(slates.lowest()).log_softmax(1)
    if multi_positive == "each":
        return slates.mean(-(slates.labels * logs).sum(1))
    return slates.mean(-logs.masked_fill(slates.labels == 0, slates.lowest()).logsumexp(1))
