"""Every loss against the values and gradients of public implementations, found through XMRANK_REFERENCE (a folder)."""

import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from losses_checks import STORED
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
    "rankNet_weightByGTDiff": ("ranknet", {"weighting": "diff"}),
    "rankNet_weightByGTDiff_pow": ("ranknet", {"weighting": "diff_squares"}),
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
        _, parameters = NAMES[_index()[self.loss_id]["function"]]
        for key, value in self.settings.items():
            parameters = parameters | PARAMETERS.get(key, lambda value, key=key: {key: value})(value)
        if "stoch" in self.loss_id:
            uniform = self.tensor("U").squeeze(-1)
            parameters = parameters | {"noise": -torch.log(-torch.log(uniform + 1e-10) + 1e-10)}
        return parameters

    def scores(self) -> tuple[Tensor, Tensor | None]:
        """What our loss is called with and, where the reference takes probabilities, d probability / d logit."""
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
    references = []
    for path in sorted(FOLDER.glob("allrank_c*.npz")):
        with np.load(path) as arrays:
            references += [Reference(path.stem, name) for name in _index() if f"{name}.value64" in arrays.files]
    return references


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
    """Lists with a pair whose σ, or σ^w, is below the reference's floor of 1e-10, so that its value is the floor's."""
    settings, order = reference.settings, reference.tensor("order64")
    labels, scores = (reference.tensor(key).gather(1, order) for key in ("labels", "scores"))  # by predicted rank
    scheme = LAMBDA_WEIGHTINGS[settings.get("weighing_scheme")]
    real, k = labels >= 0, settings.get("k", labels.shape[1])
    pairs = real.unsqueeze(2) & real.unsqueeze(1)
    pairs[:, k:], pairs[:, :, k:] = False, False
    if scheme != "ndcg1":
        pairs &= labels.unsqueeze(2) > labels.unsqueeze(1)
    logs = torch.nn.functional.logsigmoid(settings.get("sigma", 1.0) * (scores.unsqueeze(2) - scores.unsqueeze(1)))
    floored = torch.minimum(logs, _weights(scheme, labels.clamp(min=0), k, settings.get("mu", 10.0)) * logs)
    return ((floored < np.log(1e-10)) & pairs).any(2).any(1)


def _weights(scheme: str, labels: Tensor, k: int, mu: float) -> Tensor:
    """The weights of all pairs, [lists, n, n], of labels in the predicted order."""
    ranks = torch.arange(1, labels.shape[1] + 1)
    discounts = 1 / torch.log2(1 + ranks.double())
    gains = 2**labels - 1
    ideal = (gains.sort(descending=True).values * discounts)[:, :k].sum(1, keepdim=True).clamp(min=1e-10)
    gaps = (ranks.unsqueeze(1) - ranks).abs()
    steps = (1 / torch.log2(1 + gaps.clamp(min=1).double()) - 1 / torch.log2(2 + gaps.double())).abs()
    swaps = ((gains.unsqueeze(2) - gains.unsqueeze(1)) / ideal.unsqueeze(2)).abs()
    lambdarank = (discounts.unsqueeze(1) - discounts).abs() * swaps
    return {
        "none": torch.ones_like(swaps),
        "ndcg1": (gains / ideal * discounts).unsqueeze(2).expand_as(swaps),
        "ndcg2": steps * swaps,
        "lambdarank": lambdarank,
        "ndcg2pp": mu * steps * swaps + lambdarank,
        "gt_diff": (labels.unsqueeze(2) - labels.unsqueeze(1)).abs(),
        "gt_diff_pow": (labels.unsqueeze(2) ** 2 - labels.unsqueeze(1) ** 2).abs(),
    }[scheme]


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
    """Loss sums, value and gradient of our loss. Items are first put in the order in which the reference broke ties."""
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
    sums = loss.sums(*arguments, mask=mask, **parameters)
    value = loss(*arguments, mask=mask, **parameters)
    (gradient,) = torch.autograd.grad(value, leaf)
    return sums, value.detach(), gradient


@pytest.mark.parametrize("reference", REFERENCES, ids="-".join)
def test_values_and_gradients(reference):
    tolerance = 1e-6 if reference.name == "neural_ndcg" else 1e-9
    sums, value, gradient = evaluate(reference, torch.float64)
    dropped, reason = incomparable(reference)
    kept = ~left_out(reference) & ~dropped
    if reference.name in ("ranknet", "lambda_loss") and sums.reduction == "mean":
        kept &= sums.denominator > 0  # the reference is NaN where no pair is ordered
    if not kept.any():
        assert reason or value == 0
        return
    rows = reference.tensor(f"{reference.loss_id}.rows64")
    alone = evaluate(reference, torch.float64, independent=True)[0] if reference.name == "neural_ndcg" else sums
    ours = alone.numerator if sums.reduction == "sum" else alone.numerator / alone.denominator
    torch.testing.assert_close(ours.detach()[kept], rows[kept], rtol=tolerance, atol=1e-12)
    part, reference_part = _parts_of_mean(reference, sums)
    same = torch.equal(part, reference_part)
    if same and not dropped.any():
        expected = reference.tensor(f"{reference.loss_id}.value64")
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=1e-12)
    elif not dropped.any():
        torch.testing.assert_close(value, (part * rows)[kept].sum(), rtol=tolerance, atol=1e-12)
    expected = reference.tensor(f"{reference.loss_id}.grad64")
    expected = _per_list(expected, part / reference_part)
    _, slope = reference.scores()
    expected = expected if slope is None else expected * slope
    size = float(expected[kept].abs().max())
    torch.testing.assert_close(gradient[kept], expected[kept], rtol=tolerance, atol=tolerance * size)


def _parts_of_mean(reference: Reference, sums) -> tuple[Tensor, Tensor]:
    """What part of the batch value each list's own value has, with us and in the reference."""
    ones = torch.ones_like(sums.denominator)
    if sums.reduction == "sum":
        return ones, ones
    ours = sums.denominator / sums.denominator.sum()
    mean_over_pairs = reference.name in ("ranknet", "lambda_loss")
    if mean_over_pairs and reference.settings.get("weighing_scheme") != "ndcgLoss1_scheme":
        return ours, ours
    weight = reference_weight(reference)
    return ours, weight / weight.sum()


def _per_list(values: Tensor, factors: Tensor) -> Tensor:
    return values * factors.reshape(-1, *[1] * (values.dim() - 1))


@pytest.mark.parametrize("reference", REFERENCES, ids="-".join)
def test_single_precision(reference):
    sums, value, gradient = evaluate(reference, torch.float32)
    part, reference_part = _parts_of_mean(reference, sums)
    if incomparable(reference)[0].any() or not torch.equal(part, reference_part) or left_out(reference).all():
        pytest.skip("compared in double precision, list by list")
    expected = torch.tensor(float(reference.arrays[f"{reference.loss_id}.value32"]))
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    _, slope = reference.scores()
    expected = reference.tensor(f"{reference.loss_id}.grad32")
    expected = expected if slope is None else expected * slope.float()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6 + 1e-4 * float(expected.abs().max()))


def test_exceptions_are_only_those_listed():
    """Case and loss id, of the cases c01 to c12, on some list of which no comparison is made."""
    linear = {f"neuralNDCG_transposed_linear{suffix}" for suffix in ("", "_k5_tau0.5")}
    samples = {f"neuralNDCG{form}_stoch{rest}" for form in ("", "_transposed") for rest in ("", "_nolog_b1")}
    clamped = {f"lambda_rankNetWeightedByGTDiffPowed{suffix}" for suffix in ("", "_k10")}
    expected = {("c02", name) for name in linear} | {("c04", name) for name in linear | samples | clamped}
    present = {"c01", "c02", "c03", "c04", "c05", "c07", "c09", "c12"}
    exceptions = {(r.case[8:11], r.loss_id) for r in REFERENCES if incomparable(r)[0].any()}
    assert {key for key in exceptions if key[0] in present} == expected


@pytest.mark.parametrize("name", [name for name in STORED if name not in ("softmax", "triplet", "smooth_ndcg")])
def test_stored_values_are_those_of_the_files(name):
    for entry in STORED[name]:
        case, loss_id = entry["source"].split(": ")
        arrays = _load(case)
        assert entry["value"] == arrays[f"{loss_id}.value64"]
        assert entry["labels"] == arrays["labels"].tolist()


RAX_CASES = sorted({reference.case for reference in REFERENCES})


@pytest.mark.parametrize("case", RAX_CASES)
def test_softmax(case):
    """The reference's mean is over all lists, ours over those with a relevant item: it adds 0 for the others."""
    inputs, reference = _load(case), _load("rax_losses_metrics")
    scores, labels = torch.from_numpy(inputs["scores"]).requires_grad_(), torch.from_numpy(inputs["labels"])
    key = f"rax.{case[8:11]}.softmax"
    scale = len(labels) / max(int((labels > 0).any(1).sum()), 1)
    value = softmax(scores, labels, mask=labels >= 0)
    (gradient,) = torch.autograd.grad(value, scores)
    torch.testing.assert_close(value.detach(), scale * torch.tensor(reference[f"{key}.value"]), rtol=1e-9, atol=0)
    expected = scale * torch.from_numpy(reference[f"{key}.grad"])
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-14)


VSEPP = [
    (case, measure, hardest, margin)
    for case in range(4)
    for measure in ("cosine", "order")
    for hardest in (0, 1)
    for margin in (0.05, 0.2)
]


@pytest.mark.parametrize(("case", "measure", "hardest", "margin"), VSEPP)
def test_triplet(case, measure, hardest, margin):
    """The reference sums over rows and columns of a square matrix: n · (mean over rows + mean over columns)."""
    arrays = _load("vsepp_contrastive")
    images, texts = (torch.from_numpy(arrays[f"case{case}.{side}"]) for side in ("img", "txt"))
    if measure == "order":
        images, texts = images.abs(), texts.abs()
    images, texts = images.requires_grad_(), texts.requires_grad_()
    if measure == "cosine":
        scores = images @ texts.T
    else:
        scores = -(texts.unsqueeze(0) - images.unsqueeze(1)).clamp(min=0).pow(2).sum(2).sqrt()
    labels = torch.eye(len(scores))
    rows, columns = (triplet(square, labels, margin=margin, hardest=bool(hardest)) for square in (scores, scores.T))
    value = len(scores) * (rows + columns)
    key = f"case{case}.{measure}_max{hardest}_m{margin}"
    torch.testing.assert_close(value.detach(), torch.tensor(arrays[f"{key}.loss64"]), rtol=1e-9, atol=1e-14)
    if measure == "order" and case == 0:
        return  # one pair at distance 0: no slope of the square root, and nothing to compare
    for ours, side in zip(torch.autograd.grad(value, (images, texts)), ("img", "txt"), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(arrays[f"{key}.grad_{side}64"]), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("case", range(5))
def test_smooth_ndcg(case, temperature):
    """The listwise half of the reference's loss: the mean of both directions, with one relevance matrix for both."""
    arrays = _load("listwise_itr_sndcg")
    images, texts = (torch.from_numpy(arrays[f"case{case}.{side}"]).requires_grad_() for side in ("img_emb", "txt_emb"))
    scores = images @ texts.T
    key = f"case{case}.tau{temperature}_w1.0"
    relevance = torch.from_numpy(arrays[f"{key}.local.relevance"])
    directions = [
        smooth_ndcg(square, relevance, temperature=temperature, reference_compatible=True)
        for square in (scores, scores.T)
    ]
    for ours, side in zip(directions, "tv", strict=True):
        torch.testing.assert_close(1 - ours.detach(), torch.tensor(arrays[f"{key}.ndcg_{side}64"]), rtol=1e-9, atol=0)
    value = (directions[0] + directions[1]) / 2
    torch.testing.assert_close(value.detach(), torch.tensor(arrays[f"{key}.loss64"]), rtol=1e-9, atol=1e-14)
    for ours, side in zip(torch.autograd.grad(value, (images, texts)), ("img", "txt"), strict=True):
        expected = torch.from_numpy(arrays[f"{key}.grad_{side}64"])
        size = float(expected.abs().max())
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9 * size)


@pytest.mark.parametrize("case", range(5))
def test_triplet_as_the_pairwise_half_of_smooth_ndcg(case):
    arrays = _load("listwise_itr_sndcg")
    images, texts = (torch.from_numpy(arrays[f"case{case}.{side}"]) for side in ("img_emb", "txt_emb"))
    scores, labels = images @ texts.T, torch.eye(len(images))
    value = (triplet(scores, labels) + triplet(scores.T, labels)) / 2
    expected = torch.tensor(arrays[f"case{case}.tau0.01_w0.0.pairwise64"])
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-14)
