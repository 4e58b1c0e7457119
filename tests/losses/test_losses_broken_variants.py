"""The checks of the contract fail where they should: each loss, broken in the ways losses get broken."""

import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from losses_checks import (
    POINTWISE,
    VARIANTS,
    check_finite,
    check_gradient,
    check_padding,
    check_permutation,
    check_rows,
    check_stored_values,
    variant_id,
)
from torch import Tensor

from xmrank.losses import LOSSES
from xmrank.losses.item_pairs import ItemPairs
from xmrank.losses.list_batch import ListBatch


def is_caught(loss: Callable, name: str, parameters: dict) -> bool:
    """Whether any check of the contract fails."""
    try:
        check_padding(loss, name, parameters)
        check_permutation(loss, name, parameters)
        check_rows(loss, name, parameters)
        check_finite(loss, name, parameters)
        check_gradient(loss, name, parameters)
        check_stored_values(loss, name)
    except (AssertionError, RuntimeError):
        return True
    return False


def wrong_sign(loss: Callable) -> Callable:
    return lambda scores, labels, **rest: loss(-scores, labels, **rest)


def negated(loss: Callable) -> Callable:
    return lambda scores, labels, **rest: -loss(scores, labels, **rest)


def without_mask(loss: Callable) -> Callable:
    return lambda scores, labels, mask, **rest: loss(scores.nan_to_num(), labels.clamp(min=0), **rest)


def mask_only_at_the_end(loss: Callable) -> Callable:
    def broken(scores: Tensor, labels: Tensor, mask: Tensor, **rest: object) -> Tensor:
        trailing = mask.sum(1, keepdim=True) > torch.arange(mask.shape[1])
        return loss(scores.nan_to_num(), labels.clamp(min=0), mask=trailing, **rest)

    return broken


def no_gradient(loss: Callable) -> Callable:
    return lambda scores, labels, **rest: loss(scores.detach(), labels, **rest) + 0 * scores.nan_to_num().sum()


def low_precision(loss: Callable) -> Callable:
    def broken(scores: Tensor, labels: Tensor, **rest: object) -> Tensor:
        return loss(scores.bfloat16(), labels, **rest).to(torch.promote_types(scores.dtype, torch.float32))

    return broken


def mean_over_all_lists(loss: Callable) -> Callable:
    def broken(*arguments: Tensor, **rest: object) -> Tensor:
        return loss.sums(*arguments, **rest).numerator.sum() / max(len(arguments[0]), 1)

    return broken


WRAPPERS = [wrong_sign, negated, without_mask, mask_only_at_the_end, no_gradient, low_precision, mean_over_all_lists]
names = pytest.mark.parametrize("name", LOSSES)


@names
def test_the_losses_as_they_are_pass(name):
    assert not is_caught(LOSSES[name], name, {})


@pytest.mark.parametrize("broken", WRAPPERS, ids=lambda wrapper: wrapper.__name__)
@names
def test_broken_from_the_outside(name, broken):
    assert is_caught(broken(LOSSES[name]), name, {})


# What each loss is made of, replaced: (class or module, attribute, replacement, losses that must notice).

LAMBDAS = ["lambda_loss", "lambdarank"]
SMOOTH = ["approx_ndcg", "smooth_ndcg"]
NDCG = [*LAMBDAS, *SMOOTH, "neural_ndcg"]
MEANS = [name for name in LOSSES if name not in ("ranknet", *LAMBDAS)]

family, neural, listwise, approx, pointwise = (
    sys.modules[f"xmrank.losses.{room}"] for room in ("lambda_family", "neural", "listwise", "approx", "pointwise")
)


def natural_discounts(batch: ListBatch) -> Tensor:
    return 1 / torch.log(torch.arange(2, batch.items + 2, dtype=batch.scores.dtype))


def late_discounts(batch: ListBatch) -> Tensor:
    return 1 / torch.log2(torch.arange(3, batch.items + 3, dtype=batch.scores.dtype))


def reversed_pairs(pairs: ItemPairs) -> Tensor:
    return (pairs.first_values(pairs.batch.labels) < pairs.second_values(pairs.batch.labels)) & pairs.second_values(
        pairs.batch.mask
    )


def pairs_with_ties(pairs: ItemPairs) -> Tensor:
    return (pairs.first_values(pairs.batch.labels) >= pairs.second_values(pairs.batch.labels)) & pairs.second_values(
        pairs.batch.mask
    )


def pairs_with_padding(pairs: ItemPairs) -> Tensor:
    return pairs.first_values(pairs.batch.labels) > pairs.second_values(pairs.batch.labels)


def rows_before_columns(matrix: Tensor, **settings: object) -> Tensor:
    return SINKHORN(matrix.mT.contiguous(), **settings).mT


def ascending_label_order(batch: ListBatch, noise: None, generator: None) -> Tensor:
    return batch.labels.masked_fill(~batch.mask, 99).argsort(dim=1, stable=True)


def rank_counts_itself(batch: ListBatch, steepness: float, floor: float = 0.0) -> Tensor:
    pairs = ItemPairs.from_batch(batch)
    ahead = torch.sigmoid(-steepness * pairs.value_differences(batch.scores)) * pairs.second_values(batch.mask)
    return (pairs.first_values(batch.exponential_gains()).squeeze(2) / torch.log2(2 + ahead.sum(2))).sum(1)


def cross_entropy_of_squares(batch: ListBatch, targets: Tensor, eps: float) -> Tensor:
    return ((targets - batch.fill_padding(-1e30).softmax(1)) ** 2).sum(1)


SINKHORN, MEAN, BCE = neural.sinkhorn_scaling, ListBatch.average_lists, F.binary_cross_entropy_with_logits
PARTS = [
    (ListBatch, "rank_discounts", natural_discounts, SMOOTH, {}),  # the others use no other logarithm: the base cancels
    (ListBatch, "rank_discounts", late_discounts, NDCG, {}),
    (ListBatch, "exponential_gains", lambda batch: batch.labels, NDCG, {}),
    (ListBatch, "exponential_gains", lambda batch: torch.exp2(batch.labels), NDCG, {}),
    (ListBatch, "rank_items", lambda batch: torch.arange(1, batch.items + 1).expand_as(batch.mask), LAMBDAS, {}),
    (ListBatch, "ideal_dcg", lambda batch, gains, k=None: (gains * batch.rank_discounts())[:, :k].sum(1), NDCG, {}),
    (
        ListBatch,
        "has_relevant",
        property(lambda batch: batch.mask.any(1)),
        [n for n in MEANS if n not in POINTWISE],
        {},
    ),
    (ListBatch, "average_lists", lambda batch, values, counted=None: MEAN(batch, values * 1.01, counted), MEANS, {}),
    (
        ListBatch,
        "fill_padding",
        lambda batch, value: batch.scores,
        ["listnet", "listnet_binary", "softmax", *LAMBDAS],
        {},
    ),
    (ItemPairs, "ordered_pairs", reversed_pairs, ["ranknet", "triplet", *LAMBDAS], {}),
    (ItemPairs, "ordered_pairs", pairs_with_ties, ["ranknet", "triplet", "lambda_loss"], {"weighting": "none"}),
    (ItemPairs, "ordered_pairs", pairs_with_padding, ["ranknet", "triplet"], {}),
    (neural, "sinkhorn_scaling", lambda matrix, **settings: matrix, ["neural_ndcg"], {}),
    (neural, "sinkhorn_scaling", rows_before_columns, ["neural_ndcg"], {"max_iterations": 1}),
    (listwise, "_label_order", ascending_label_order, ["listmle"], {}),
    (listwise, "_cross_entropy", cross_entropy_of_squares, ["listnet", "listnet_binary"], {}),
    (approx, "_smooth_dcg", rank_counts_itself, SMOOTH, {}),
    (
        F,
        "binary_cross_entropy_with_logits",
        lambda x, y, reduction: BCE(x, 1 - y, reduction=reduction),
        POINTWISE[::2],
        {},
    ),
]
REPLACED = [
    pytest.param(owner, attribute, replacement, name, parameters, id=f"{attribute}-{number}-{name}")
    for number, (owner, attribute, replacement, noticed_by, parameters) in enumerate(PARTS)
    for name in noticed_by
]


@pytest.mark.parametrize(("owner", "attribute", "replacement", "name", "parameters"), REPLACED)
def test_broken_from_the_inside(monkeypatch, owner, attribute, replacement, name, parameters):
    monkeypatch.setattr(owner, attribute, replacement)
    assert is_caught(LOSSES[name], name, parameters if (name, parameters) in VARIANTS else {})


@pytest.mark.parametrize(("name", "parameters"), [v for v in VARIANTS if v[0] == "lambda_loss"], ids=variant_id)
def test_each_weighting_is_checked(monkeypatch, name, parameters):
    weighting = parameters.get("weighting", "lambdarank")
    original = family.WEIGHTINGS[weighting]
    monkeypatch.setitem(family.WEIGHTINGS, weighting, lambda ranking: original(ranking) * 1.001)
    with pytest.raises(AssertionError):
        check_stored_values(LOSSES[name], name)
