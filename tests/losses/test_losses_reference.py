"""Every loss against the values and gradients of public implementations, found through XMRANK_REFERENCE (a folder)."""

import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from xmrank.losses import LOSSES, smooth_ndcg, softmax, triplet

FOLDER = Path(os.environ["XMRANK_REFERENCE"]) if "XMRANK_REFERENCE" in os.environ else None
pytestmark = pytest.mark.skipif(FOLDER is None, reason="XMRANK_REFERENCE does not name the folder of reference values")

LAMBDA_WEIGHTINGS = {
    None: "none",
    "rankNet_scheme": "none",
    "ndcgLoss1_scheme": "ndcg1",
    "ndcgLoss2_scheme": "ndcg2",
    "lambdaRank_scheme": "lambdarank",
    "ndcgLoss2PP_scheme": "ndcg2pp",
    "rankNetWeightedByGTDiff_scheme": "gt_diff",
    "rankNetWeightedByGTDiffPowed_scheme": "gt_diff_pow",
}
NAMES = {
    "rankNet": ("ranknet", {}),
    "rankNet_weightByGTDiff": ("ranknet", {"weight": "diff"}),
    "rankNet_weightByGTDiff_pow": ("ranknet", {"weight": "diff_squares"}),
    "lambdaLoss": ("lambda_loss", {}),
    "neuralNDCG": ("neural_ndcg", {}),
    "neuralNDCG_transposed": ("neural_ndcg", {"transposed": True}),
    "listNet": ("listnet", {}),
    "binary_listNet": ("listnet_binary", {}),
    "listMLE": ("listmle", {}),
    "approxNDCGLoss": ("approx_ndcg", {}),
    "pointwise_rmse": ("rmse", {}),
    "bce": ("bce", {}),
    "ordinal": ("ordinal", {}),
}
PARAMETERS = {
    "weighing_scheme": lambda value: {"weighting": LAMBDA_WEIGHTINGS[value]},
    "reduction_log": lambda value: {"log_base": {"natural": "e", "binary": 2}[value]},
    "powered_relevancies": lambda value: {"powered_gains": value},
    "n_samples": lambda value: {"stochastic_samples": value},
    "beta": lambda value: {"noise_scale": value},
    "no_of_levels": lambda value: {"levels": value},
    "stochastic": lambda value: {},
    "n": lambda value: {},  # of ordinal: the scores' last axis
}


class Reference(NamedTuple):
    """One loss of the index on one file of inputs."""

    case: str
    loss_id: str

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return _load(self.case)

    @property
    def settings(self) -> dict:
        return _index()[self.loss_id]["kwargs"]

    @property
    def name(self) -> str:
        return NAMES[_index()[self.loss_id]["function"]][0]

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    def parameters(self) -> dict:
        _, found = NAMES[_index()[self.loss_id]["function"]]
        for key, value in self.settings.items():
            found = found | PARAMETERS.get(key, lambda value, key=key: {key: value})(value)
        if "stoch" in self.loss_id:
            uniform = self.tensor("U").squeeze(-1)
            found = found | {"noise": -torch.log(-torch.log(uniform + 1e-10) + 1e-10)}
        return found

    def scores(self) -> tuple[Tensor, Tensor | None]:
        """What our loss is called with and, where the reference takes probabilities instead, d probability / d logit."""
        inputs = {"bce": "probs", "ordinal": "ord_probs"}.get(self.name)
        if inputs is None:
            return self.tensor("scores"), None
        probabilities = self.tensor(inputs)
        return probabilities.logit(), probabilities * (1 - probabilities)


@cache
def _load(case: str) -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / f"{case}.npz"))


@cache
def _index() -> dict:
    return json.loads((FOLDER / "allrank_index.json").read_text())["losses"]


def _references() -> list[Reference]:
    if FOLDER is None:
        return []
    found = []
    for path in sorted(FOLDER.glob("allrank_c*.npz")):
        with np.load(path) as arrays:
            found += [Reference(path.stem, name) for name in _index() if f"{name}.value64" in arrays.files]
    return found


REFERENCES = _references()


# Where we differ, and why. All other comparisons are exact, list by list, in value and gradient.


def left_out(reference: Reference) -> Tensor:
    """Lists that we leave out of the mean and the reference does not: those without a relevant item, and padding.

    They are no signal for a ranking; bce, rmse and ordinal learn from the former all the same.
    """
    labels = reference.tensor("labels")
    return ~(labels >= 0).any(1) if reference.name in ("bce", "rmse", "ordinal") else ~(labels > 0).any(1)


def incomparable(reference: Reference) -> tuple[Tensor, str]:
    """Lists on which the reference's own value is known to be wrong or another definition, and the reason."""
    labels, scores = reference.tensor("labels"), reference.tensor("scores")
    none, all_lists = torch.zeros(len(labels), dtype=torch.bool), torch.ones(len(labels), dtype=torch.bool)
    padding = labels < 0
    if reference.name == "lambda_loss" and (clamped := _clamped(reference)).any():
        return clamped, "the reference's double clamp takes the gradient of badly ordered pairs; ours keeps it"
    if reference.name == "neural_ndcg":
        if "transposed_linear" in reference.loss_id and bool(((labels > 0) & (labels != 1)).any()):
            return all_lists, "the reference divides transposed linear gains by the exponential IDCG"
        if "stoch" in reference.loss_id and bool(padding.any()) and len(labels) > 1:
            return all_lists, "the reference repeats the masks of a padded batch in the wrong order over the samples"
        if reference.settings.get("log_scores") and bool(padding.any()) and bool(padding[scores == scores.min()].any()):
            return all_lists, "the reference's shift is the score of a padded item; ours does not look at padding"
        if bool((padding[:, :-1] & ~padding[:, 1:]).any()):
            return all_lists, "the reference sorts as if all padding were at the end"
    return none, ""


def _clamped(reference: Reference) -> Tensor:
    """Lists with a pair whose σ or σ^w is under the reference's floor of 1e-10, so that its value is the floor's.

    An upper bound of the weights is enough: only those of the ground truth and mu exceed 1.
    """
    settings, labels, scores = reference.settings, reference.tensor("labels"), reference.tensor("scores")
    scheme = LAMBDA_WEIGHTINGS[settings.get("weighing_scheme")]
    powers = {"gt_diff": 1, "gt_diff_pow": 2}.get(scheme)
    levels = labels.clamp(min=0) ** (powers or 1)
    weights = (levels.unsqueeze(2) - levels.unsqueeze(1)).abs().clamp(min=1) if powers else torch.ones(())
    if scheme == "ndcg2pp":
        weights = torch.tensor(0.37 * settings.get("mu", 10.0) + 1)  # 1/D_1 − 1/D_2 = 0.369, gains at most 1
    margins = settings.get("sigma", 1.0) * (scores.unsqueeze(2) - scores.unsqueeze(1))
    real = labels >= 0
    pairs = real.unsqueeze(2) & real.unsqueeze(1)
    if scheme != "ndcg1":
        pairs &= labels.unsqueeze(2) > labels.unsqueeze(1)
    floored = weights * torch.nn.functional.logsigmoid(margins) <= np.log(1e-10)
    return (floored & pairs).any(2).any(1)


def reference_weight(reference: Reference) -> Tensor:
    """How much each list counts in the reference's batch value; only where it is another weight than ours."""
    labels = reference.tensor("labels")
    items = (labels >= 0).sum(1).double()
    if reference.name == "lambda_loss" and reference.settings.get("weighing_scheme") == "ndcgLoss1_scheme":
        return items.clamp(max=reference.settings.get("k", labels.shape[1])) ** 2
    if reference.name == "ordinal":  # there the mean over the items of a batch; here, as for the others, over its lists
        return items
    if reference.name == "neural_ndcg":
        return (labels > 0).any(1).double()
    if reference.name == "bce":
        return (items > 0).double()
    return torch.ones(len(labels), dtype=torch.float64)


def evaluate(reference: Reference, dtype: torch.dtype, **more) -> tuple:
    """Terms, value and gradient of our loss. Items are first put in the order in which the reference broke its ties."""
    scores, _ = reference.scores()
    labels = reference.tensor("labels")
    suffix = {torch.float64: "64", torch.float32: "32"}[dtype]
    key = {"lambda_loss": f"order{suffix}", "listmle": f"label_order{suffix}"}.get(reference.name)
    order = reference.tensor(key) if key else torch.arange(labels.shape[1]).expand_as(labels)
    wide = order.unsqueeze(2).expand_as(scores) if scores.dim() == 3 else order
    leaf = scores.to(dtype).requires_grad_()
    arguments = (leaf.gather(1, wide), labels.gather(1, order))
    loss, parameters = LOSSES[reference.name], reference.parameters() | more
    mask = arguments[1] >= 0
    terms = loss.terms(*arguments, mask=mask, **parameters)
    value = loss(*arguments, mask=mask, **parameters)
    (gradient,) = torch.autograd.grad(value, leaf)
    return terms, value.detach(), gradient


@pytest.mark.parametrize("reference", REFERENCES, ids="-".join)
def test_values_and_gradients(reference):
    tolerance = 1e-6 if reference.name == "neural_ndcg" else 1e-9
    terms, value, gradient = evaluate(reference, torch.float64)
    dropped, reason = incomparable(reference)
    kept = ~left_out(reference) & ~dropped
    if reference.name in ("ranknet", "lambda_loss") and terms.reduction == "mean":
        kept &= terms.weight > 0  # the reference is NaN where no pair is ordered
    if not kept.any():
        assert reason or value == 0
        return
    rows = reference.tensor(f"{reference.loss_id}.rows64")
    alone = evaluate(reference, torch.float64, independent=True)[0] if reference.name == "neural_ndcg" else terms
    ours = alone.total if terms.reduction == "sum" else alone.total / alone.weight
    torch.testing.assert_close(ours.detach()[kept], rows[kept], rtol=tolerance, atol=1e-12)
    share, reference_share = _shares(reference, terms)
    same = torch.equal(share, reference_share)
    if same and not dropped.any():
        expected = reference.tensor(f"{reference.loss_id}.value64")
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=1e-12)
    elif not dropped.any():
        torch.testing.assert_close(value, (share * rows)[kept].sum(), rtol=tolerance, atol=1e-12)
    expected = reference.tensor(f"{reference.loss_id}.grad64")
    expected = _per_list(expected, share / reference_share)
    _, slope = reference.scores()
    expected = expected if slope is None else expected * slope
    size = float(expected[kept].abs().max())
    torch.testing.assert_close(gradient[kept], expected[kept], rtol=tolerance, atol=tolerance * size)


def _shares(reference: Reference, terms) -> tuple[Tensor, Tensor]:
    """What part of the batch value each list's own value has, with us and in the reference."""
    ones = torch.ones_like(terms.weight)
    if terms.reduction == "sum":
        return ones, ones
    ours = terms.weight / terms.weight.sum()
    mean_over_pairs = reference.name in ("ranknet", "lambda_loss")
    if mean_over_pairs and reference.settings.get("weighing_scheme") != "ndcgLoss1_scheme":
        return ours, ours
    weight = reference_weight(reference)
    return ours, weight / weight.sum()


def _per_list(values: Tensor, factors: Tensor) -> Tensor:
    return values * factors.reshape(-1, *[1] * (values.dim() - 1))


@pytest.mark.parametrize("reference", REFERENCES, ids="-".join)
def test_single_precision(reference):
    terms, value, gradient = evaluate(reference, torch.float32)
    share, reference_share = _shares(reference, terms)
    if incomparable(reference)[0].any() or not torch.equal(share, reference_share) or left_out(reference).all():
        pytest.skip("compared in double precision, list by list")
    expected = torch.tensor(float(reference.arrays[f"{reference.loss_id}.value32"]))
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    _, slope = reference.scores()
    expected = reference.tensor(f"{reference.loss_id}.grad32")
    expected = expected if slope is None else expected * slope.float()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6 + 1e-4 * float(expected.abs().max()))
