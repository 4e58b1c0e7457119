"""What must hold for every loss: checks that take the loss, so that a broken one can be shown to fail them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.testing import assert_close

from xmrank.losses import LOSSES

STORED = json.loads((Path(__file__).parent / "reference_values.json").read_text())
POINTWISE = ("bce", "rmse", "ordinal")
LEVELS = 3  # labels are 0..LEVELS

VARIANTS = [
    *[(name, {}) for name in LOSSES],
    ("ranknet", {"weighting": "diff"}),
    ("ranknet", {"weighting": "diff_squares"}),
    *[("lambda_loss", {"weighting": w}) for w in ("none", "ndcg1", "ndcg2", "ndcg2pp", "gt_diff", "gt_diff_pow")],
    ("lambda_loss", {"k": 3, "reduction": "mean", "sigma": 2.0, "log_base": "e"}),
    ("lambda_loss", {"weighting": "ndcg1", "k": 3, "reduction": "mean"}),
    ("lambda_loss", {"weighting": "ndcg2pp", "k": 2, "mu": 5.0}),
    ("lambdarank", {"reduction": "mean"}),
    ("neural_ndcg", {"k": 2, "temperature": 0.5}),
    ("neural_ndcg", {"transposed": True, "powered_gains": False, "k": 4}),
    ("neural_ndcg", {"independent": True, "max_iterations": 7}),
    ("approx_ndcg", {"alpha": 10.0}),
    ("smooth_ndcg", {"temperature": 0.5, "reference_compatible": True}),
    ("softmax", {"multi_positive": "mass"}),
    ("rmse", {"levels": 3}),
    ("triplet", {"hardest": False, "margin": 1.0}),
]


class Lists(NamedTuple):
    """A batch of lists: the arguments of a loss."""

    scores: Tensor
    labels: Tensor
    mask: Tensor


def variant_id(value: object) -> str:
    """A test id for a loss name or its parameters."""
    return ",".join(f"{k}={v}" for k, v in value.items()) or "defaults" if isinstance(value, dict) else str(value)


def random_lists(name: str, lists: int = 4, items: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Lists:
    """Unpadded lists of the kind the loss is for, without tied scores; listmle gets no tied labels either."""
    generator = torch.Generator().manual_seed(seed)
    shape = (lists, items, LEVELS) if name == "ordinal" else (lists, items)
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2 if name == "bce" else LEVELS + 1, (lists, items), generator=generator)
    if name == "listmle":
        labels = torch.rand((lists, items), generator=generator).argsort(dim=1)
    else:
        labels[:, 0], labels[:, 1] = 0, 1  # so that every list has a pair
    return Lists(scores.to(dtype), labels.to(dtype), torch.ones(lists, items, dtype=torch.bool))


def insert_padding(lists: Lists, at: tuple[int, ...], garbage: float = 1e3) -> tuple[Lists, Tensor]:
    """The same lists with padded items at these positions, and the positions of the real ones."""
    total = lists.labels.shape[1] + len(at)
    real = torch.tensor([position for position in range(total) if position not in at])
    scores = lists.scores.new_full((len(lists.scores), total, *lists.scores.shape[2:]), garbage)
    labels = lists.labels.new_full((len(lists.labels), total), -1.0)
    mask = torch.zeros(labels.shape, dtype=torch.bool)
    scores[:, real], labels[:, real], mask[:, real] = lists.scores, lists.labels, lists.mask
    return Lists(scores, labels, mask), real


def value_and_gradient(loss: Callable, lists: Lists, **parameters: object) -> tuple[Tensor, Tensor]:
    scores = lists.scores.detach().clone().requires_grad_()
    value = loss(scores, lists.labels, mask=lists.mask, **parameters)
    (gradient,) = torch.autograd.grad(value, scores)
    return value.detach(), gradient


def list_parameters(name: str, parameters: dict) -> dict:
    """Parameters with which a list's value depends on that list alone, and that leave the reduction open."""
    independent = {"independent": True} if name == "neural_ndcg" else {}
    return {key: setting for key, setting in parameters.items() if key != "reduction"} | independent


def check_padding(loss: Callable, name: str, parameters: dict) -> None:
    """Padding, wherever it is and whatever it holds, is the same as no item."""
    lists = random_lists(name)
    value, gradient = value_and_gradient(loss, lists, **parameters)
    for at in ((6, 7), (0, 1), (2, 5), (0, 3, 8)):
        for garbage in (1e3, -1e3, float("nan")):
            padded, real = insert_padding(lists, at, garbage)
            padded_value, padded_gradient = value_and_gradient(loss, padded, **parameters)
            assert_close(padded_value, value, rtol=1e-12, atol=1e-12)
            assert_close(padded_gradient[:, real], gradient, rtol=1e-10, atol=1e-12)
            assert not padded_gradient[:, list(at)].any()


def check_permutation(loss: Callable, name: str, parameters: dict) -> None:
    """The order in which the items are given does not matter."""
    lists = random_lists(name)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    value, gradient = value_and_gradient(loss, lists, **parameters)
    permuted = Lists(lists.scores[:, order], lists.labels[:, order], lists.mask)
    permuted_value, permuted_gradient = value_and_gradient(loss, permuted, **parameters)
    assert_close(permuted_value, value, rtol=1e-12, atol=1e-12)
    assert_close(permuted_gradient, gradient[:, order], rtol=1e-10, atol=1e-12)


def check_rows(loss: Callable, name: str, parameters: dict) -> None:
    """The value of a batch is the mean of its lists' own values, over the lists, or over their pairs, or their sum."""
    lists, _ = insert_padding(random_lists(name), (1,))
    lists.mask[2, 4:] = False
    lists.labels[0] = 0  # no signal, except for the pointwise losses
    lists.mask[3] = False  # no item at all
    value, _ = value_and_gradient(loss, lists, **parameters)
    alone = [loss(*(part[i : i + 1] for part in lists[:2]), mask=lists.mask[i : i + 1], **parameters) for i in range(4)]
    weights = [expected_weight(name, parameters, lists, i) for i in range(4)]
    expected = sum(weight * row for weight, row in zip(weights, alone, strict=True))
    if not (name in ("lambda_loss", "lambdarank") and parameters.get("reduction", "sum") == "sum"):
        expected = expected / sum(weights)
    neural = name == "neural_ndcg" and not parameters.get("independent")  # its iterations end with the batch's slowest
    assert_close(value, expected.detach(), rtol=1e-6 if neural else 1e-12, atol=1e-12)


def expected_weight(name: str, parameters: dict, lists: Lists, row: int) -> float:
    """How much a list counts: as one, as its number of pairs, or not at all."""
    real = lists.mask[row]
    labels, scores = lists.labels[row][real], lists.scores[row][real]
    if name in POINTWISE:
        return float(len(labels) > 0)
    if name == "ranknet" or (name in ("lambda_loss", "lambdarank") and parameters.get("reduction") == "mean"):
        top = labels[scores.argsort(descending=True)][: parameters.get("k")]
        if parameters.get("weighting") == "ndcg1":
            return float(len(top) ** 2) if (labels > 0).any() else 0.0
        return float((top.unsqueeze(1) > top).sum())
    return float((labels > 0).any())


def check_stored_values(loss: Callable, name: str) -> None:
    """Values and gradients that public implementations gave, kept beside the tests."""
    for entry in STORED[name]:
        labels = torch.tensor(entry["labels"], dtype=torch.float64)
        lists = Lists(torch.tensor(entry["scores"], dtype=torch.float64), labels, labels >= 0)
        tolerance = 1e-6 if name == "neural_ndcg" else 1e-9
        value, gradient = value_and_gradient(loss, lists, **entry["parameters"])
        assert_close(value, torch.tensor(entry["value"], dtype=torch.float64), rtol=tolerance, atol=1e-14)
        if entry["gradient"] is not None:
            expected = torch.tensor(entry["gradient"], dtype=torch.float64)
            assert_close(gradient, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def check_finite(loss: Callable, name: str, parameters: dict) -> None:
    """Large, equal and opposite scores, lists without and with nothing but relevant items: never a NaN or infinity."""
    lists = random_lists(name, lists=6, dtype=torch.float32)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, 1.0]).reshape(6, *[1] * (lists.scores.dim() - 2))
    for scores in (lists.scores * 1e4, torch.zeros_like(lists.scores), signs * 1e4 * torch.ones_like(lists.scores)):
        labels = lists.labels.clone()
        labels[0], labels[1] = 0, 1
        mask = lists.mask.clone()
        mask[2], mask[3, ::2], mask[4, 1:] = False, False, False
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            value, gradient = value_and_gradient(loss, Lists(scores.to(dtype), labels, mask), **parameters)
            assert value.isfinite() and gradient.isfinite().all()
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert gradient.dtype == dtype


def check_gradient(loss: Callable, name: str, parameters: dict) -> None:
    """The gradient is that of the value, by finite differences in double precision."""
    lists, _ = insert_padding(random_lists(name, lists=3, items=4), (1,))
    lists.mask[2, 4] = False
    scores = lists.scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, lists.labels, mask=lists.mask, **parameters), (scores,))
