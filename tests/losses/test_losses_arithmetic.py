"""The losses on tiny lists, with the arithmetic spelled out."""

import math

import pytest
import torch
from torch import Tensor

from xmrank.losses import (
    approx_ndcg,
    bce,
    lambda_loss,
    lambdarank,
    listmle,
    listnet,
    listnet_binary,
    neural_ndcg,
    ordinal,
    ranknet,
    rmse,
    smooth_ndcg,
    softmax,
    triplet,
)


def tensor(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exp(*values: float) -> list[float]:
    return [math.exp(value) for value in values]


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_ranknet_averages_over_ordered_pairs():
    scores, labels = tensor([[1.0, 2.0, 0.0]]), tensor([[1.0, 0.0, 0.0]])
    assert ranknet(scores, labels).item() == pytest.approx((softplus(2.0 - 1.0) + softplus(0.0 - 1.0)) / 2)


def test_ranknet_averages_over_the_pairs_of_the_batch_not_over_lists():
    scores, labels = tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 9.0]]), tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    pairs = [softplus(2.0 - 1.0), softplus(0.0 - 1.0), softplus(3.0 - 1.0)]
    assert ranknet(scores, labels, mask=mask).item() == pytest.approx(sum(pairs) / 3)


def test_ranknet_weights():
    scores, labels = tensor([[1.0, 2.0, 0.0]]), tensor([[3.0, 1.0, 0.0]])
    first, second, third = softplus(2.0 - 1.0), softplus(0.0 - 1.0), softplus(0.0 - 2.0)
    by_difference = (2 * first + 3 * second + 1 * third) / 3
    by_squares = ((9 - 1) * first + 9 * second + 1 * third) / 3
    assert ranknet(scores, labels, weighting="diff").item() == pytest.approx(by_difference)
    assert ranknet(scores, labels, weighting="diff_squares").item() == pytest.approx(by_squares)


def test_reductions_and_weights_of_a_mean_over_lists():
    """Softmax of two lists: one of three items, one of two; the second counts three times as much."""
    scores, labels = tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 9.0]]), tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mask, weights = torch.tensor([[True, True, True], [True, True, False]]), tensor([1.0, 3.0])
    first = -math.log(math.exp(1.0) / sum(exp(1.0, 2.0, 0.0)))
    second = -math.log(math.exp(1.0) / sum(exp(3.0, 1.0)))
    assert softmax(scores[0], labels[0]).item() == pytest.approx(first)
    assert softmax(scores, labels, mask, reduction="none").tolist() == pytest.approx([first, second])
    assert softmax(scores, labels, mask, reduction="sum").item() == pytest.approx(first + second)
    assert softmax(scores, labels, mask).item() == pytest.approx((first + second) / 2)
    assert softmax(scores, labels, mask, weights=weights).item() == pytest.approx((first + 3 * second) / (1 + 3))
    weighted = softmax(scores, labels, mask, weights=weights, reduction="none")
    assert weighted.tolist() == pytest.approx([first, 3 * second])


def test_reductions_and_weights_of_a_mean_over_pairs():
    """RankNet of a list with two pairs and one with one pair: the mean over pairs is not the mean over lists."""
    scores, labels = tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 9.0]]), tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mask, weights = torch.tensor([[True, True, True], [True, True, False]]), tensor([1.0, 3.0])
    pairs, pair = [softplus(2.0 - 1.0), softplus(0.0 - 1.0)], softplus(3.0 - 1.0)
    assert ranknet(scores, labels, mask, reduction="none").tolist() == pytest.approx([sum(pairs) / 2, pair])
    assert ranknet(scores, labels, mask, reduction="sum").item() == pytest.approx(sum(pairs) / 2 + pair)
    assert ranknet(scores, labels, mask).item() == pytest.approx((sum(pairs) + pair) / 3)
    expected = (1 * sum(pairs) + 3 * pair) / (1 * 2 + 3 * 1)
    assert ranknet(scores, labels, mask, weights=weights).item() == pytest.approx(expected)


def test_lambda_loss_is_a_sum_unless_its_mean_is_wanted():
    scores, labels = tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 9.0]]), tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mask, weights = torch.tensor([[True, True, True], [True, True, False]]), tensor([1.0, 3.0])
    pairs, pair = [softplus(2.0 - 1.0), softplus(0.0 - 1.0)], softplus(3.0 - 1.0)
    options = {"weighting": "none", "log_base": "e"}
    assert lambda_loss(scores, labels, mask, **options).item() == pytest.approx(sum(pairs) + pair)
    assert lambda_loss(scores, labels, mask, weights=weights, **options).item() == pytest.approx(sum(pairs) + 3 * pair)
    alone = lambda_loss(scores, labels, mask, reduction="none", **options)
    assert alone.tolist() == pytest.approx([sum(pairs), pair])
    mean = lambda_loss(scores, labels, mask, weights=weights, reduction="mean", **options)
    assert mean.item() == pytest.approx((sum(pairs) + 3 * pair) / (2 + 3 * 1))


def test_triplet_hinges():
    """Two relevant items at 1.0 and 3.0, two others at 2.0 and 0.9; margin 0.2."""
    scores, labels = tensor([[1.0, 2.0, 0.9, 3.0]]), tensor([[1.0, 0.0, 0.0, 1.0]])
    assert triplet(scores, labels).item() == pytest.approx(((2.0 - 1.0 + 0.2) + 0) / 2)
    assert triplet(scores, labels, hardest=False).item() == pytest.approx(
        ((2.0 - 1.0 + 0.2) + (0.9 - 1.0 + 0.2) + 0) / 2
    )


def test_lambdarank_multiplies_a_pair_by_its_swap():
    """Labels 1 and 2 have gains 1 and 3; scores put them on ranks 3 and 1, the third item on rank 2."""
    scores, labels = tensor([[0.5, 2.0, 1.0]]), tensor([[1.0, 2.0, 0.0]])
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    discount = {rank: 1 / math.log2(1 + rank) for rank in (1, 2, 3)}
    two_over_one = (discount[1] - discount[3]) * (3 - 1) / ideal * softplus(0.5 - 2.0)
    two_over_none = (discount[1] - discount[2]) * (3 - 0) / ideal * softplus(1.0 - 2.0)
    one_over_none = (discount[2] - discount[3]) * (1 - 0) / ideal * softplus(1.0 - 0.5)
    natural = two_over_one + two_over_none + one_over_none
    assert lambdarank(scores, labels, log_base="e").item() == pytest.approx(natural)
    assert lambdarank(scores, labels).item() == pytest.approx(natural / math.log(2))
    assert lambdarank(scores, labels, reduction="mean").item() == pytest.approx(natural / math.log(2) / 3)


def test_lambdarank_keeps_pairs_of_the_top_k_and_normalises_by_it():
    scores, labels = tensor([[0.5, 2.0, 1.0]]), tensor([[1.0, 2.0, 0.0]])
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    kept = (1 / math.log2(2) - 1 / math.log2(3)) * 3 / ideal * softplus(1.0 - 2.0)  # ranks 1 and 2; rank 3 is out
    assert lambdarank(scores, labels, k=2, log_base="e").item() == pytest.approx(kept)


def test_lambda_loss_weightings_of_one_pair():
    """Label 2 on rank 3, label 0 on ranks 1 and 2, so that maxDCG is 3 and G is 1."""
    scores, labels = tensor([[0.0, 2.0, 1.0]]), tensor([[2.0, 0.0, 0.0]])
    to_first, to_second = softplus(2.0 - 0.0), softplus(1.0 - 0.0)
    inverse = [1 / math.log2(1 + r) for r in (1, 2, 3)]
    ndcg2 = (inverse[1] - inverse[2]) * to_first + (inverse[0] - inverse[1]) * to_second  # |i − j| is 2 and 1
    swap = (inverse[0] - inverse[2]) * to_first + (inverse[1] - inverse[2]) * to_second
    ndcg1 = inverse[2] * (to_first + to_second + softplus(0.0))  # with i = j
    expected = {
        "none": to_first + to_second,
        "ndcg1": ndcg1,
        "ndcg2": ndcg2,
        "lambdarank": swap,
        "ndcg2pp": 10 * ndcg2 + swap,
        "gt_diff": 2 * (to_first + to_second),
        "gt_diff_pow": 4 * (to_first + to_second),
    }
    for weighting, value in expected.items():
        assert lambda_loss(scores, labels, weighting=weighting, log_base="e").item() == pytest.approx(value), weighting


def test_lambda_loss_keeps_the_gradient_of_badly_ordered_pairs():
    scores = tensor([[0.0, 200.0]]).requires_grad_()
    value = lambda_loss(scores, tensor([[1.0, 0.0]]), weighting="none", log_base="e")
    (gradient,) = torch.autograd.grad(value, scores)
    assert value.item() == pytest.approx(200.0)
    assert gradient.tolist() == [[pytest.approx(-1.0), pytest.approx(1.0)]]


def test_tied_scores_rank_by_position():
    """At equal scores the first item is on rank 1: a relevant one there has the swap of ranks 1 and 2."""
    weight = 1 / math.log2(2) - 1 / math.log2(3)
    for labels in ([[1.0, 0.0]], [[0.0, 1.0]]):
        assert lambdarank(tensor([[5.0, 5.0]]), tensor(labels), log_base="e").item() == pytest.approx(
            weight * math.log(2)
        )
    beyond = lambdarank(tensor([[5.0, 5.0, 5.0]]), tensor([[0.0, 0.0, 1.0]]), k=2)
    assert beyond.item() == 0  # the relevant item is on rank 3


def test_listnet_compares_two_softmaxes():
    scores, labels = tensor([[1.0, 2.0, 0.0]]), tensor([[1.0, 0.0, 0.0]])
    predicted = [e / sum(exp(1.0, 2.0, 0.0)) for e in exp(1.0, 2.0, 0.0)]
    target = [e / sum(exp(1.0, 0.0, 0.0)) for e in exp(1.0, 0.0, 0.0)]
    expected = -sum(t * math.log(p + 1e-10) for t, p in zip(target, predicted, strict=True))
    assert listnet(scores, labels).item() == pytest.approx(expected)


def test_listnet_scales_labels_before_their_softmax():
    scores, labels = tensor([[1.0, 2.0, 0.0]]), tensor([[1.0, 0.0, 0.0]])
    predicted = [e / sum(exp(1.0, 2.0, 0.0)) for e in exp(1.0, 2.0, 0.0)]
    target = [e / sum(exp(5.0, 0.0, 0.0)) for e in exp(5.0, 0.0, 0.0)]
    expected = -sum(t * math.log(p + 1e-10) for t, p in zip(target, predicted, strict=True))
    assert listnet(scores, labels, label_scale=5.0).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="label_scale must be above 0, not 0"):
        listnet(scores, labels, label_scale=0)


def test_listnet_binary_divides_the_target():
    scores, labels = tensor([[1.0, 2.0, 0.0]]), tensor([[1.0, 0.0, 1.0]])
    total = sum(exp(1.0, 2.0, 0.0))
    expected = -(0.5 * math.log(math.exp(1.0) / total) + 0.5 * math.log(math.exp(0.0) / total))
    assert listnet_binary(scores, labels).item() == pytest.approx(expected)


def test_listmle_picks_items_in_the_order_of_their_labels():
    """Scores 1, 2, 0 with labels 0, 2, 1: first the 2, then the 0 out of what is left, then the 1."""
    scores, labels = tensor([[1.0, 2.0, 0.0]]), tensor([[0.0, 2.0, 1.0]])
    first = math.log(sum(exp(2.0, 0.0, 1.0))) - 2.0
    second = math.log(sum(exp(0.0, 1.0))) - 0.0
    third = math.log(sum(exp(1.0))) - 1.0
    assert listmle(scores, labels).item() == pytest.approx(first + second + third)


def test_softmax_of_each_relevant_item_or_of_their_mass():
    scores, labels = tensor([[1.0, 2.0, 0.0]]), tensor([[1.0, 0.0, 2.0]])
    total = sum(exp(1.0, 2.0, 0.0))
    each = -1 * math.log(math.exp(1.0) / total) - 2 * math.log(math.exp(0.0) / total)
    assert softmax(scores, labels).item() == pytest.approx(each)
    mass = -math.log((math.exp(1.0) + math.exp(0.0)) / total)
    assert softmax(scores, labels, multi_positive="mass").item() == pytest.approx(mass)


def test_approx_ndcg_of_one_relevant_item():
    """NDCG is 1 / log2(1 + rank); the rank is 1 plus how far the two others are ahead."""
    scores, labels = tensor([[1.0, 2.0, 0.0]]), tensor([[1.0, 0.0, 0.0]])
    rank = 1 + sigmoid(2.0 - 1.0) + sigmoid(0.0 - 1.0)
    assert approx_ndcg(scores, labels).item() == pytest.approx(-1 / math.log2(1 + rank))
    steep = 1 + sigmoid(10 * (2.0 - 1.0)) + sigmoid(10 * (0.0 - 1.0))
    assert approx_ndcg(scores, labels, alpha=10.0).item() == pytest.approx(-1 / math.log2(1 + steep))


def test_smooth_ndcg_of_graded_relevance():
    scores, labels = tensor([[0.30, 0.31]]), tensor([[1.0, 0.5]])
    gains = [2**1.0 - 1, 2**0.5 - 1]
    ranks = [1 + sigmoid((0.31 - 0.30) / 0.01), 1 + sigmoid((0.30 - 0.31) / 0.01)]
    ideal = gains[0] / math.log2(2) + gains[1] / math.log2(3)
    ndcg = sum(gain / math.log2(1 + rank) for gain, rank in zip(gains, ranks, strict=True)) / ideal
    assert smooth_ndcg(scores, labels).item() == pytest.approx(1 - ndcg)


def test_smooth_ndcg_gives_tied_relevance_its_own_ranks():
    """A perfect order has loss 0; the reference's IDCG lets both items be on rank 1."""
    scores, labels = tensor([[1.0, 0.0]]), tensor([[1.0, 1.0]])
    assert smooth_ndcg(scores, labels).item() == pytest.approx(0, abs=1e-12)
    value = smooth_ndcg(scores, labels, reference_compatible=True).item()
    assert value == pytest.approx(1 - (1 / math.log2(2) + 1 / math.log2(3)) / (1 / math.log2(2) + 1 / math.log2(2)))


def test_neural_ndcg_of_two_items_before_any_sinkhorn_iteration():
    """The rows are (n + 1 − 2r)·s − Σ|s_i − s_j| = ±s − 1 for scores 1 and 0; the relevant item has score 0."""
    scores, labels = tensor([[1.0, 0.0]]), tensor([[0.0, 1.0]])
    first_row = exp(1 * 1.0 - 1.0, 1 * 0.0 - 1.0)
    second_row = exp(-1 * 1.0 - 1.0, -1 * 0.0 - 1.0)
    on_first, on_second = first_row[1] / sum(first_row), second_row[1] / sum(second_row)
    expected = -(on_first / math.log2(2) + on_second / math.log2(3))
    assert neural_ndcg(scores, labels, max_iterations=0).item() == pytest.approx(expected)


def test_neural_ndcg_divides_columns_then_rows():
    """One iteration on the matrix [[a, b], [b, a]] leaves it alone: its rows and columns already have the same sums.

    So three items, 2.0, 1.0 and 0.0, with the first relevant, and the arithmetic of the whole matrix.
    """
    scores, labels = tensor([[2.0, 1.0, 0.0]]), tensor([[1.0, 0.0, 0.0]])
    distances = [0 + 1 + 2, 1 + 0 + 1, 2 + 1 + 0]
    rows = [exp(*(slope * s - d for s, d in zip((2.0, 1.0, 0.0), distances, strict=True))) for slope in (2, 0, -2)]
    rows = [[entry / sum(row) for entry in row] for row in rows]
    columns = [sum(row[c] for row in rows) for c in range(3)]
    rows = [[entry / columns[c] for c, entry in enumerate(row)] for row in rows]
    rows = [[entry / sum(row) for entry in row] for row in rows]
    expected = -sum(row[0] / math.log2(2 + r) for r, row in enumerate(rows))
    assert neural_ndcg(scores, labels, max_iterations=1).item() == pytest.approx(expected)
    assert neural_ndcg(scores, labels, max_iterations=1, transposed=True).item() == pytest.approx(expected)


def test_neural_ndcg_of_well_separated_scores_is_ndcg():
    scores, labels = tensor([[50.0, 200.0, 100.0]]), tensor([[2.0, 1.0, 0.0]])
    dcg = 1 / math.log2(2) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    assert neural_ndcg(scores, labels).item() == pytest.approx(-dcg / ideal)
    assert neural_ndcg(scores, labels, k=1).item() == pytest.approx(-1 / 3)
    linear = (1 / math.log2(2) + 2 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))
    for transposed in (False, True):
        value = neural_ndcg(scores, labels, powered_gains=False, transposed=transposed)
        assert value.item() == pytest.approx(-linear)


def test_neural_ndcg_samples_are_averaged():
    """Noise that swaps the two items in one sample and not in the other."""
    scores, labels = tensor([[100.0, 0.0]]), tensor([[1.0, 0.0]])
    noise = tensor([[[0.0, 0.0]], [[0.0, 400.0]]])
    value = neural_ndcg(scores, labels, stochastic_samples=2, noise=noise, noise_scale=0.5, log_scores=False)
    assert value.item() == pytest.approx(-(1 / math.log2(2) + 1 / math.log2(3)) / 2)


def test_pointwise_losses():
    scores, labels = tensor([[0.5, -1.0]]), tensor([[1.0, 0.0]])
    assert bce(scores, labels).item() == pytest.approx(softplus(-0.5) + softplus(-1.0))
    assert rmse(scores, labels).item() == pytest.approx(math.sqrt(((1 - 0.5) ** 2 + (0 + 1.0) ** 2) / 2))
    assert rmse(scores, labels, levels=2).item() == pytest.approx(math.sqrt(((1 - 1.0) ** 2 + (0 + 2.0) ** 2) / 2))
    logits = tensor([[[2.0, -1.0], [0.5, -3.0]]])  # is the label at least 1, at least 2?
    first = softplus(-2.0) + softplus(-1.0)  # label 1: yes, no
    second = softplus(0.5) + softplus(-3.0)  # label 0: no, no
    assert ordinal(logits, labels).item() == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("loss", [listnet, approx_ndcg, neural_ndcg, softmax])
def test_mean_over_the_lists_that_have_a_relevant_item(loss):
    scores = tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 9.0], [0.2, 0.1, 0.3]])
    labels = tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    expected = (loss(scores[:1], labels[:1]) + loss(scores[2:], labels[2:])) / 2
    assert loss(scores, labels).item() == pytest.approx(expected.item())
