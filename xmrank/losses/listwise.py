"""Losses on the softmax of a whole list: ListNet, ListMLE and softmax cross-entropy."""

import math

import torch
from torch import Tensor

from xmrank.losses.list_batch import ListBatch
from xmrank.losses.loss_function import loss
from xmrank.losses.loss_parameters import (
    ListMleParameters,
    ListNetBinaryParameters,
    ListNetParameters,
    SoftmaxParameters,
)
from xmrank.losses.loss_sum import LossSum


@loss(ListNetParameters)
def listnet(batch: ListBatch, parameters: ListNetParameters) -> LossSum:
    """Top-one cross-entropy between the softmax of the labels and that of the scores.

    Definition: −Σ_i softmax(label_scale · y)_i · log(softmax(s)_i + eps), mean over the lists with a relevant item.

    Source: Cao et al., "Learning to rank: from pairwise approach to listwise approach", ICML 2007, section 4.2 (top-one
    probability, of any increasing function of the labels) and 5 (ListNet).
    """
    targets = (batch.labels * parameters.label_scale).masked_fill(~batch.mask, float("-inf"))
    # A list without a relevant item may be all padding: its softmax of −inf would be NaN.
    targets = targets.masked_fill(~batch.has_relevant.unsqueeze(1), 0).softmax(1)
    return batch.average_lists(_cross_entropy(batch, targets, parameters.eps))


@loss(ListNetBinaryParameters)
def listnet_binary(batch: ListBatch, parameters: ListNetBinaryParameters) -> LossSum:
    """ListNet for binary relevance: each relevant item has an equal part of the target.

    Definition: −Σ_i y_i / Σy · log(softmax(s)_i + eps), mean over the lists with a relevant item.

    Source: Cao et al., "Learning to rank: from pairwise approach to listwise approach", ICML 2007, section 5, with the
    labels themselves as target distribution.
    """
    # Labels divided by their sum; a list without a relevant item does not count, but must not be 0 / 0.
    sums = batch.labels.sum(1, keepdim=True)
    targets = batch.labels / torch.where(sums > 0, sums, 1)
    return batch.average_lists(_cross_entropy(batch, targets, parameters.eps))


def _cross_entropy(batch: ListBatch, targets: Tensor, eps: float) -> Tensor:
    """−Σ target · log(softmax(s) + eps) of each list, [lists]."""
    # Padding has the lowest score, not −inf: a list of nothing but padding would have NaN.
    logs = batch.fill_padding(batch.lowest_score).log_softmax(1)
    # log(p + eps) from log p, so that eps may be 0 and a small p keeps its gradient.
    logs = torch.logaddexp(logs, torch.full_like(logs, math.log(eps) if eps > 0 else -math.inf))
    return -(targets * logs).masked_fill(~batch.mask, 0).sum(1)


@loss(ListMleParameters)
def listmle(
    batch: ListBatch,
    parameters: ListMleParameters,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> LossSum:
    """Likelihood of the order of the labels under the Plackett–Luce model of the scores.

    Definition: with the items in descending order of label and z = s − max s, Σ_r log(Σ_{q ≥ r} e^z_q + eps) − z_r,
    mean over the lists with a relevant item.

    Args:
        noise: a random number of each item, [lists, items]: the order of items of equal label; None: drawn.
        generator: what the noise is drawn with; None: items of equal label keep their positions.

    Source: Xia et al., "Listwise approach to learning to rank: theory and algorithm", ICML 2008, the likelihood loss.
    """
    # Everything below is in the order of the labels.
    order = _label_order(batch, noise, generator)
    real = batch.mask.gather(1, order)
    # Subtracting the highest score keeps the exponentials finite.
    peak = batch.fill_padding(float("-inf")).max(1, keepdim=True).values
    peak = peak.masked_fill(peak.isinf(), 0)  # of a list that is all padding
    heights = (batch.scores.gather(1, order) - peak).masked_fill(~real, 0)
    # Σ over the items from rank r on: a cumulative sum from the end of the list.
    tails = heights.exp().masked_fill(~real, 0).flip(1).cumsum(1).flip(1)
    losses = (tails + parameters.eps).log() - heights
    return batch.average_lists(losses.masked_fill(~real, 0).sum(1))


def _label_order(batch: ListBatch, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Positions of the items by descending label, padding last, int64 [lists, items]."""
    keys = batch.labels.masked_fill(~batch.mask, -1)
    if noise is None and generator is None:
        return keys.argsort(dim=1, descending=True, stable=True)
    if noise is None:
        noise = torch.rand(keys.shape, generator=generator, device=keys.device)
    if noise.shape != keys.shape:
        raise ValueError(f"noise must be [lists, items], not of shape {tuple(noise.shape)}")
    # A stable sort of shuffled items leaves those of equal label in random order.
    shuffle = noise.argsort(dim=1)
    return shuffle.gather(1, keys.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))


@loss(SoftmaxParameters)
def softmax(batch: ListBatch, parameters: SoftmaxParameters) -> LossSum:
    """Softmax cross-entropy; with one positive a list this is InfoNCE. Labels are weights, not normalised.

    Definition: "each": −Σ_i y_i · log softmax(s)_i; "mass": −log Σ_{y_i > 0} softmax(s)_i; mean over the lists with a
    relevant item.

    Source: Bruch et al., "An analysis of the softmax cross entropy loss for learning-to-rank with binary relevance",
    ICTIR 2019; "mass": Miech et al., "End-to-end learning of visual representations from uncurated instructional
    videos", CVPR 2020, eq. 1 (MIL-NCE).
    """
    logs = batch.fill_padding(batch.lowest_score).log_softmax(1)
    # Padding has label 0 and is not relevant, so it drops out of both forms.
    if parameters.multi_positive == "each":
        return batch.average_lists(-(batch.labels * logs).sum(1))
    return batch.average_lists(-logs.masked_fill(batch.labels == 0, batch.lowest_score).logsumexp(1))
