"""NeuralNDCG: NDCG on a differentiable permutation matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xmrank.losses.list_batch import ListBatch
from xmrank.losses.loss_function import loss
from xmrank.losses.loss_parameters import NeuralNdcgParameters
from xmrank.losses.loss_sum import LossSum
from xmrank.losses.sinkhorn import sinkhorn_scaling

TINY = 1e-10
"""Keeps the logarithms of the stochastic variant finite."""


@loss(NeuralNdcgParameters)
def neural_ndcg(
    batch: ListBatch,
    parameters: NeuralNdcgParameters,
    *,
    independent: bool = False,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> LossSum:
    """Negative NDCG@k of the list sorted by a relaxed permutation.

    Definition: −Σ_{r ≤ k} (P̂ g)_r / log2(1 + r) / IDCG@k, mean over the lists with a relevant item, where P̂ is the
    NeuralSort matrix of the scores made doubly stochastic by Sinkhorn scaling and g = 2^y − 1. The stochastic variant
    is the mean of it over samples of perturbed scores s + noise_scale · Gumbel noise, or
    log(s + |min s| + 1e-10) + noise_scale · noise.

    Args:
        independent: each list (and sample) has its own smallest score and its own end of the Sinkhorn iterations. By
            default both are the batch's, as published: lists then influence each other, by about 1e-6 where the
            iterations reach the tolerance, and by the shift of log_scores. Stacked models, accumulated gradients and
            several processes equal their separate, joint or single counterparts exactly only with True.
        noise: Gumbel noise to use, [samples, lists, items]; None: drawn.
        generator: what the noise is drawn with; None: the global one of the scores' device.

    Source: Pobrotyn and Białobrzeski, "NeuralNDCG: direct optimisation of a ranking metric via differentiable
    relaxation of sorting", 2021, the definitions of NeuralNDCG@k and its transposed form; P̂: Grover et al.,
    "Stochastic optimization of sorting networks via continuous relaxations", ICLR 2019, eq. 5.
    """
    samples = batch.scores.unsqueeze(0)
    if parameters.stochastic_samples or noise is not None:
        if noise is None:
            shape = parameters.stochastic_samples, *batch.scores.shape
            noise = draw_gumbel(shape, batch.scores.dtype, batch.scores.device, generator)
        samples = _perturb_scores(batch, parameters, noise, independent)
    # All samples of all lists are sorted at once; padding is a block of its own in the permutation, and has no gain.
    real = batch.mask.repeat(len(samples), 1)
    permutation = sinkhorn_scaling(
        neural_sort(samples.flatten(0, 1), real, parameters.temperature),
        max_iterations=parameters.max_iterations,
        tolerance=parameters.tolerance,
        together=not independent,
    )
    permutation = permutation.unflatten(0, samples.shape[:2])
    # DCG@k of the relaxed order, the mean over samples, divided by that of the ideal order.
    gains = batch.exponential_gains() if parameters.powered_gains else batch.labels
    dcg = _relaxed_dcg(permutation[:, :, : parameters.k], gains, batch.rank_discounts(), parameters.transposed)
    ideal = batch.ideal_dcg(gains, parameters.k)
    return batch.average_lists(-dcg.mean(0) / torch.where(ideal > 0, ideal, 1))


def neural_sort(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """The NeuralSort relaxation of the permutation that sorts each list in descending order.

    Definition: row r is softmax(((n + 1 − 2r) · s − A_s 1) / temperature), with A_s the matrix of |s_i − s_j|.

    Args:
        scores: [lists, items], 0 at padding.
        mask: True where an item is real, [lists, items].
        temperature: above 0.

    Returns:
        [lists, positions, items], each row with sum 1: a list of c real items has them in its first c rows, and the
        padding, in equal parts, in the others.
    """
    # Dividing the scores by the temperature divides the whole exponent, distances included.
    heights = scores / temperature
    count = mask.sum(1, keepdim=True)
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    distances = (heights.unsqueeze(2) - heights.unsqueeze(1)).abs().masked_fill(~mask.unsqueeze(1), 0).sum(2)
    slopes = (count + 1 - 2 * positions).to(scores.dtype)
    logits = slopes.unsqueeze(2) * heights.unsqueeze(1) - distances.unsqueeze(1)
    # Real items only in the first c rows, padding only in the rows after them.
    foreign = (positions <= count).unsqueeze(2) != mask.unsqueeze(1)
    relaxed = logits.masked_fill(foreign, torch.finfo(scores.dtype).min / 4).softmax(2)
    return F.threshold(relaxed, 1e-30, 0)  # what is near the smallest float slows a CPU down and changes nothing


def _relaxed_dcg(permutation: Tensor, gains: Tensor, discounts: Tensor, transposed: bool) -> Tensor:
    """DCG of the relaxed order, [samples, lists].

    Args:
        permutation: its first k rows, [samples, lists, k, items].
        gains: [lists, items].
        discounts: of all ranks, [items].
        transposed: move the discounts to the items, P̂ᵀd, instead of the gains to the positions, P̂g.
    """
    discounts = discounts[: permutation.shape[2]]
    if transposed:
        return ((permutation * discounts.unsqueeze(1)).sum(2) * gains).sum(2)
    return ((permutation * gains.unsqueeze(1)).sum(3) * discounts).sum(2)


def _perturb_scores(batch: ListBatch, parameters: NeuralNdcgParameters, noise: Tensor, independent: bool) -> Tensor:
    """Scores, or their logarithms, plus noise, [samples, lists, items]; 0 at padding."""
    if noise.shape[1:] != batch.scores.shape:
        raise ValueError(f"noise must be [samples, lists, items], not of shape {tuple(noise.shape)}")
    scores = _positive_logs(batch, independent) if parameters.log_scores else batch.scores
    return (scores + parameters.noise_scale * noise.to(scores.dtype)).masked_fill(~batch.mask, 0)


def _positive_logs(batch: ListBatch, independent: bool) -> Tensor:
    """log(s + |smallest s| + 1e-10), [lists, items]; 0 at padding."""
    if len(batch.scores) == 0:
        return batch.scores
    # Padding must not be the smallest score.
    scores = batch.fill_padding(float("inf"))
    smallest = scores.amin(1, keepdim=True) if independent else scores.amin()
    smallest = smallest.masked_fill(smallest.isinf(), 0)  # of a list that is all padding
    return (batch.scores + smallest.abs() + TINY).masked_fill(~batch.mask, 1).log()


def draw_gumbel(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Gumbel noise, −log(−log(uniform)), of a shape such as [samples, lists, items]."""
    uniform = torch.rand(shape, generator=generator, dtype=dtype, device=device)
    return -torch.log(-torch.log(uniform + TINY) + TINY)
