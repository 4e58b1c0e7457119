"""NeuralNDCG: NDCG on a differentiable permutation matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xmrank.losses.list_batch import ListBatch, check_k, check_positive
from xmrank.losses.loss_sum import LossSum, loss
from xmrank.losses.sinkhorn import sinkhorn

_TINY = 1e-10  # keeps the logarithms of the stochastic variant finite


@loss
def neural_ndcg(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    k: int | None = None,
    powered_gains: bool = True,
    transposed: bool = False,
    stochastic_samples: int = 0,
    noise_scale: float = 0.1,
    log_scores: bool = True,
    independent: bool = False,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-6,
) -> LossSum:
    """Negative NDCG@k of the list sorted by a relaxed permutation.

    Definition: −Σ_{r ≤ k} (P̂ g)_r / log2(1 + r) / IDCG@k, mean over lists, where P̂ is the NeuralSort matrix of the
    scores made doubly stochastic by Sinkhorn scaling and g = 2^y − 1. The stochastic variant is the mean of it over
    samples of perturbed scores s + noise_scale · Gumbel noise, or log(s + |min s| + 1e-10) + noise_scale · noise.

    Args:
        scores: predicted scores, [lists, items], any floating dtype.
        labels: relevance, at least 0, [lists, items].
        mask: True where an item is real, [lists, items]; None: all are.
        temperature: of NeuralSort; the smaller, the closer to a permutation.
        k: how many positions count; None: all.
        powered_gains: g = 2^y − 1; otherwise g = y.
        transposed: sort the discounts back to the items, P̂ᵀd, instead of the gains to the positions: the same number.
        stochastic_samples: how many perturbed score lists to average over; 0: the scores as they are.
        noise_scale: what the noise is multiplied by.
        log_scores: perturb the logarithm of the scores, made positive by adding |smallest score|.
        independent: each list (and sample) has its own smallest score and its own end of the Sinkhorn iterations. By
            default both are the batch's, as published: lists then influence each other, by about 1e-6 where the
            iterations reach the tolerance, and by the shift of log_scores. Stacked models, accumulated gradients and
            several processes equal their separate, joint or single counterparts exactly only with True.
        noise: Gumbel noise to use, [samples, lists, items]; None: drawn.
        generator: what the noise is drawn with; None: the global one of the scores' device.
        max_iterations: at most so many Sinkhorn iterations, columns before rows.
        tolerance: a list whose column sums are all closer than that to 1 stops.

    Returns:
        A scalar in the scores' dtype (float32 for lower precisions); 0, with a gradient, where no list has a relevant
        item.

    Source: Pobrotyn and Białobrzeski, "NeuralNDCG: direct optimisation of a ranking metric via differentiable
    relaxation of sorting", 2021, the definitions of NeuralNDCG@k and its transposed form; P̂: Grover et al.,
    "Stochastic optimization of sorting networks via continuous relaxations", ICLR 2019, eq. 5.
    """
    check_k(k)
    check_positive("temperature", temperature)
    slates = ListBatch.of(scores, labels, mask)
    samples = slates.scores.unsqueeze(0)
    if stochastic_samples or noise is not None:
        noise = _gumbel(stochastic_samples, slates, generator) if noise is None else noise
        samples = _perturbed(slates, noise, noise_scale, log_scores, independent)
    real = slates.mask.repeat(len(samples), 1)
    relaxed = neural_sort(samples.flatten(0, 1), real, temperature)
    permutation = sinkhorn(
        relaxed, max_iterations=max_iterations, tolerance=tolerance, together=not independent
    )  # padding is a block of its own in it, and has no gain
    permutation = permutation.unflatten(0, samples.shape[:2])
    gains = slates.gains() if powered_gains else slates.labels
    discounts = slates.discounts()[:k]
    if transposed:
        dcg = ((permutation[:, :, :k] * discounts.unsqueeze(1)).sum(2) * gains).sum(2)
    else:
        dcg = ((permutation[:, :, :k] * gains.unsqueeze(1)).sum(3) * discounts).sum(2)
    ideal = slates.ideal_dcg(gains, k)
    return slates.mean(-dcg.mean(0) / torch.where(ideal > 0, ideal, 1))


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
    heights = scores / temperature
    count = mask.sum(1, keepdim=True)
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    distances = (heights.unsqueeze(2) - heights.unsqueeze(1)).abs().masked_fill(~mask.unsqueeze(1), 0).sum(2)
    slopes = (count + 1 - 2 * positions).to(scores.dtype)
    logits = slopes.unsqueeze(2) * heights.unsqueeze(1) - distances.unsqueeze(1)
    foreign = (positions <= count).unsqueeze(2) != mask.unsqueeze(1)
    relaxed = logits.masked_fill(foreign, torch.finfo(scores.dtype).min / 4).softmax(2)
    return F.threshold(relaxed, 1e-30, 0)  # what is near the smallest float slows a CPU down and changes nothing


def _perturbed(slates: ListBatch, noise: Tensor, noise_scale: float, log_scores: bool, independent: bool) -> Tensor:
    """Scores, or their logarithms, plus noise, [samples, lists, items]; 0 at padding."""
    if noise.shape[1:] != slates.scores.shape:
        raise ValueError(f"noise must be [samples, lists, items], not of shape {tuple(noise.shape)}")
    scores = _positive_logs(slates, independent) if log_scores else slates.scores
    return (scores + noise_scale * noise.to(scores.dtype)).masked_fill(~slates.mask, 0)


def _positive_logs(slates: ListBatch, independent: bool) -> Tensor:
    """log(s + |smallest s| + 1e-10), [lists, items]; 0 at padding."""
    if len(slates.scores) == 0:
        return slates.scores
    scores = slates.filled(float("inf"))
    smallest = scores.amin(1, keepdim=True) if independent else scores.amin()
    smallest = smallest.masked_fill(smallest.isinf(), 0)
    return (slates.scores + smallest.abs() + _TINY).masked_fill(~slates.mask, 1).log()


def _gumbel(samples: int, slates: ListBatch, generator: torch.Generator | None) -> Tensor:
    """Gumbel noise, −log(−log(uniform)), [samples, lists, items]."""
    shape, like = (samples, *slates.scores.shape), slates.scores
    uniform = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    return -torch.log(-torch.log(uniform + _TINY) + _TINY)
