"""One contract over the whole registry: a new loss is covered by its line there."""

import contextlib
import inspect
import pickle
import re
import subprocess
import sys
from dataclasses import asdict, fields

import pytest
import torch
from losses_checks import (
    LEVELS,
    POINTWISE,
    VARIANTS,
    Lists,
    check_finite,
    check_gradient,
    check_padding,
    check_permutation,
    check_rows,
    check_stored_values,
    insert_padding,
    list_parameters,
    random_lists,
    value_and_gradient,
    variant_id,
)
from torch.testing import assert_close

import xmrank.losses
from xmrank.losses import LOSSES, LossSum
from xmrank.losses.loss_parameters import LossParameters

variants = pytest.mark.parametrize(("name", "parameters"), VARIANTS, ids=variant_id)
names = pytest.mark.parametrize("name", LOSSES)

PAIR_AVERAGED = {"ranknet", "lambda_loss", "lambdarank"}
"""Losses whose mean is over the pairs of the batch."""
NOT_ON_THE_COMMAND_LINE = {"generator", "independent", "noise", "reference_compatible"}
"""Keywords of losses that take a tensor or a generator, that the trainer sets, or that only tests set."""


@variants
def test_padding_anywhere_is_no_item(name, parameters):
    check_padding(LOSSES[name], name, parameters)


@variants
def test_order_of_items_changes_nothing(name, parameters):
    check_permutation(LOSSES[name], name, parameters)


@variants
def test_batch_is_made_of_its_lists(name, parameters):
    check_rows(LOSSES[name], name, parameters)


@variants
def test_gradient_is_that_of_the_value(name, parameters):
    check_gradient(LOSSES[name], name, parameters)


@variants
def test_value_and_gradient_are_finite_everywhere(name, parameters):
    check_finite(LOSSES[name], name, parameters)


@names
def test_stored_reference_values(name):
    check_stored_values(LOSSES[name], name)


@variants
def test_sums_of_parts_join_to_the_value_of_the_whole(name, parameters):
    """What gradient accumulation and several processes rely on."""
    lists = random_lists(name)
    loss, together = LOSSES[name], name == "neural_ndcg" and not parameters.get("independent")
    value, gradient = value_and_gradient(loss, lists, **parameters)
    scores = lists.scores.clone().requires_grad_()
    parts = [
        loss.sums(scores[rows], lists.labels[rows], mask=lists.mask[rows], **parameters)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    joined = LossSum(
        torch.cat([p.numerator for p in parts]), torch.cat([p.denominator for p in parts]), parts[0].reduction
    )
    tolerance = 1e-5 if together else 1e-12
    assert_close(joined.reduce_lists().detach(), value, rtol=tolerance, atol=1e-12)
    (joined_gradient,) = torch.autograd.grad(joined.reduce_lists(), scores)
    assert_close(joined_gradient, gradient, rtol=tolerance, atol=1e-12 + tolerance * float(gradient.abs().max()))


@variants
def test_sums_are_per_list_and_only_numerators_have_a_gradient(name, parameters):
    lists = random_lists(name)
    sums = LOSSES[name].sums(lists.scores.clone().requires_grad_(), lists.labels, mask=lists.mask, **parameters)
    assert sums.numerator.shape == sums.denominator.shape == (4,)
    assert sums.numerator.requires_grad
    assert not sums.denominator.requires_grad
    assert sums.reduction == ("sum" if "lambda" in name and parameters.get("reduction") != "mean" else "mean")


@variants
def test_precision(name, parameters):
    lists = random_lists(name)
    exact, exact_gradient = value_and_gradient(LOSSES[name], lists, **parameters)
    single, gradient = value_and_gradient(LOSSES[name], lists._replace(scores=lists.scores.float()), **parameters)
    assert exact.dtype == exact_gradient.dtype == torch.float64
    assert single.dtype == gradient.dtype == torch.float32
    assert_close(single.double(), exact, rtol=1e-5, atol=1e-6)
    assert_close(gradient.double(), exact_gradient, rtol=1e-3, atol=1e-4 * float(exact_gradient.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@variants
def test_low_precision_scores_are_computed_in_float32(name, parameters, dtype):
    lists = random_lists(name)
    low = lists.scores.to(dtype)
    value, gradient = value_and_gradient(LOSSES[name], lists._replace(scores=low), **parameters)
    expected, expected_gradient = value_and_gradient(LOSSES[name], lists._replace(scores=low.float()), **parameters)
    assert value.dtype == torch.float32
    assert value == expected
    assert torch.equal(gradient, expected_gradient.to(dtype))


@names
def test_autocast_changes_nothing(name):
    lists = random_lists(name, dtype=torch.float32)
    expected, expected_gradient = value_and_gradient(LOSSES[name], lists)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(LOSSES[name], lists)
    assert value == expected
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (3, 0)])
@variants
def test_nothing_at_all_is_zero_with_a_gradient(name, parameters, shape):
    scores = torch.zeros(*shape, *([LEVELS] if name == "ordinal" else []))
    empty = Lists(scores, torch.zeros(shape), torch.ones(shape, dtype=torch.bool))
    value, gradient = value_and_gradient(LOSSES[name], empty, **parameters)
    assert value == 0
    assert gradient.shape == scores.shape


@variants
def test_nothing_but_padding_is_zero_with_a_gradient(name, parameters):
    lists = random_lists(name)
    value, gradient = value_and_gradient(LOSSES[name], lists._replace(mask=~lists.mask), **parameters)
    assert value == 0
    assert not gradient.any()


@variants
def test_lists_without_a_relevant_item(name, parameters):
    """They are signal for a pointwise loss only; the others neither learn from them nor count them."""
    lists = random_lists(name)
    value, gradient = value_and_gradient(LOSSES[name], lists, **parameters)
    lists.labels[2] = 0
    with_zeros, gradient = value_and_gradient(LOSSES[name], lists, **parameters)
    kept = torch.tensor([0, 1, 3])
    without, _ = value_and_gradient(LOSSES[name], Lists(*(part[kept] for part in lists)), **parameters)
    if name in POINTWISE:
        assert gradient[2].all()
        assert with_zeros != without
    else:
        assert not gradient[2].any()
        assert_close(with_zeros, without, rtol=1e-6, atol=1e-12)
    lists.labels[:] = 0
    value, gradient = value_and_gradient(LOSSES[name], lists, **parameters)
    assert (value != 0) == bool(gradient.any()) == (name in POINTWISE)


@variants
def test_lists_with_only_relevant_items(name, parameters):
    lists = random_lists(name)
    value, gradient = value_and_gradient(LOSSES[name], lists._replace(labels=torch.ones(4, 6)), **parameters)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if name in ("ranknet", "triplet", "lambdarank"):  # nothing is above anything
        assert value == 0


@variants
def test_arguments_are_left_alone_and_labels_may_be_integers(name, parameters):
    lists = random_lists(name)
    copies = Lists(*(part.clone() for part in lists))
    value, _ = value_and_gradient(LOSSES[name], lists, **parameters)
    assert all(torch.equal(part, copy) for part, copy in zip(lists, copies, strict=True))
    integers, _ = value_and_gradient(LOSSES[name], lists._replace(labels=lists.labels.long()), **parameters)
    assert integers == value
    assert LOSSES[name](lists.scores, lists.labels, **parameters) == value  # no mask: all items are real


@variants
def test_the_way_taken_on_an_accelerator_gives_the_same(name, parameters, monkeypatch):
    """There every item, not every relevant one, begins pairs, and Sinkhorn carries finished lists along."""
    lists, _ = insert_padding(random_lists(name), (2,))
    value, gradient = value_and_gradient(LOSSES[name], lists, **parameters)
    for module in ("list_batch", "item_pairs", "sinkhorn"):
        monkeypatch.setattr(f"xmrank.losses.{module}.on_host", lambda tensor: False)
    full, full_gradient = value_and_gradient(LOSSES[name], lists, **parameters)
    assert_close(full, value, rtol=1e-12, atol=0)
    assert_close(full_gradient, gradient, rtol=1e-10, atol=1e-14)


@variants
def test_on_an_accelerator_no_value_is_waited_for(name, parameters, monkeypatch):
    """The tensors of the meta device have none: reading one is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know the device
    lists = Lists(*(part.to("meta") for part in random_lists(name, dtype=torch.float32)))
    weights = torch.ones(4, device="meta")
    value, gradient = value_and_gradient(LOSSES[name], lists, weights=weights, **parameters)
    assert value.shape == ()
    assert gradient.shape == lists.scores.shape


@variants
def test_one_list_is_a_batch_of_one(name, parameters):
    lists, _ = insert_padding(random_lists(name, lists=1), (2,))
    value, gradient = value_and_gradient(LOSSES[name], lists, **parameters)
    one = Lists(*(part[0] for part in lists))
    one_value, one_gradient = value_and_gradient(LOSSES[name], one, **parameters)
    assert one_value.shape == ()
    assert one_value == value
    assert torch.equal(one_gradient, gradient[0])
    assert LOSSES[name](one.scores, one.labels, one.mask, **parameters) == value  # the mask by position
    own = list_parameters(name, parameters)
    alone = LOSSES[name](one.scores, one.labels, one.mask, reduction="none", weights=torch.tensor(3), **own)
    assert alone.shape == ()
    assert_close(alone, 3 * LOSSES[name](one.scores, one.labels, one.mask, **own))


@variants
def test_reductions(name, parameters):
    """none: the value of each list alone; sum: their sum; mean: over the lists that count, or over their pairs."""
    lists, _ = insert_padding(random_lists(name), (1,))
    lists.labels[0] = 0  # no signal, except for the pointwise losses
    loss = LOSSES[name]
    own = list_parameters(name, parameters)
    alone, _ = value_and_gradient(lambda *a, **k: loss(*a, reduction="none", **k).sum(), lists, **own)
    none = loss(lists.scores, lists.labels, lists.mask, reduction="none", **own)
    rows = [loss(*(part[i] for part in lists), **own) for i in range(4)]
    assert_close(none, torch.stack(rows), rtol=1e-12, atol=1e-12)
    total, total_gradient = value_and_gradient(loss, lists, reduction="sum", **own)
    assert_close(total, none.sum(), rtol=1e-12, atol=1e-12)
    assert_close(total, alone, rtol=1e-12, atol=1e-12)
    assert total_gradient[0].any() == (name in POINTWISE)
    mean = loss(lists.scores, lists.labels, lists.mask, reduction="mean", **own)
    sums = loss.sums(lists.scores, lists.labels, lists.mask, **own)
    assert_close(mean, sums.numerator.sum() / sums.denominator.sum(), rtol=1e-12, atol=0)
    if name not in PAIR_AVERAGED:
        counted = 4 if name in POINTWISE else 3
        assert_close(mean, total / counted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@variants
def test_a_weight_counts_a_list_as_often(name, parameters, reduction):
    """Weights 2, 1, 0 and 3 are the same as the first list twice, the third never and the fourth three times."""
    lists, _ = insert_padding(random_lists(name), (1,))
    own = list_parameters(name, parameters)
    often = torch.tensor([0, 0, 1, 3, 3, 3])
    repeated_lists = Lists(*(part[often] for part in lists))
    repeated, repeated_gradient = value_and_gradient(LOSSES[name], repeated_lists, reduction=reduction, **own)
    weights = torch.tensor([2, 1, 0, 3])
    value, gradient = value_and_gradient(LOSSES[name], lists, weights=weights, reduction=reduction, **own)
    assert_close(value, repeated, rtol=1e-12, atol=1e-12)
    expected = torch.zeros_like(gradient).index_add_(0, often, repeated_gradient)
    assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@variants
def test_weights_need_not_be_whole_and_zero_weights_are_zero_with_a_gradient(name, parameters):
    lists = random_lists(name)
    own = list_parameters(name, parameters)
    weights = torch.tensor([4.0, 1.0, 2.0, 1.0])
    value, _ = value_and_gradient(LOSSES[name], lists, weights=weights, reduction="mean", **own)
    scaled, _ = value_and_gradient(LOSSES[name], lists, weights=weights / 64, reduction="mean", **own)
    assert_close(scaled, value, rtol=1e-12, atol=1e-12)
    nothing, gradient = value_and_gradient(LOSSES[name], lists, weights=torch.zeros(4), reduction="mean", **own)
    assert nothing == 0
    assert not gradient.any()


@names
def test_refusals_are_one_clear_line(name):
    loss, lists = LOSSES[name], random_lists(name)
    scores, labels, mask = lists
    for arguments, keywords, reason in [
        ((scores[None], labels), {}, "scores must be"),
        ((scores[0], labels), {}, "labels have shape"),
        ((scores.long(), labels), {}, "scores must be floating"),
        ((scores, labels[:, :3]), {}, "labels have shape"),
        ((scores, labels), {"mask": mask[:2]}, "the mask has shape"),
        ((scores, labels), {"mask": mask.float()}, "the mask must be bool"),
        ((scores, labels - 5), {}, "labels must be at least 0"),
        ((scores, labels * torch.nan), {}, "labels must be at least 0"),
        ((scores, labels), {"weights": torch.ones(3)}, r"weights have shape \(3,\), expected one for each of 4 lists"),
        ((scores[0], labels[0]), {"weights": torch.ones(1)}, "weights have shape .* expected one number"),
        ((scores, labels), {"weights": torch.tensor([1.0, 1.0, -1.0, 1.0])}, "weights must be at least 0"),
        ((scores, labels), {"reduction": "max"}, "reduction must be one of 'mean', 'sum', 'none', not 'max'"),
    ]:
        with pytest.raises(ValueError, match=reason) as caught:
            loss(*arguments, **keywords)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ranknet", {"weighting": "squares"}),
        ("lambda_loss", {"weighting": "ndcg3"}),
        ("lambda_loss", {"reduction": "max"}),
        ("lambda_loss", {"log_base": 10}),
        ("lambda_loss", {"k": 0}),
        ("lambda_loss", {"sigma": 0.0}),
        ("lambda_loss", {"mu": -1.0}),
        ("lambdarank", {"eps": -1e-10}),
        ("listnet", {"eps": -1e-10}),
        ("listmle", {"eps": float("nan")}),
        ("softmax", {"multi_positive": "any"}),
        ("neural_ndcg", {"k": 0}),
        ("neural_ndcg", {"temperature": 0.0}),
        ("neural_ndcg", {"stochastic_samples": -1}),
        ("neural_ndcg", {"max_iterations": -1}),
        ("neural_ndcg", {"noise": torch.zeros(4, 6)}),
        ("approx_ndcg", {"alpha": -1.0}),
        ("smooth_ndcg", {"temperature": 0.0}),
        ("rmse", {"levels": 0}),
    ],
    ids=variant_id,
)
def test_parameters_that_make_no_sense_are_refused(name, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        LOSSES[name](*random_lists(name)[:2], **parameters)


@names
def test_an_unknown_parameter_is_refused(name):
    with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected keyword argument 'tau'"):
        LOSSES[name](*random_lists(name)[:2], tau=1.0)


@names
def test_parameters_are_those_of_the_dataclass(name):
    """The function takes what the command line gives, by the same names and with the same defaults, and no more."""
    loss, command_line = LOSSES[name], LossParameters()
    further = {name for name, p in inspect.signature(loss).parameters.items() if p.kind is p.KEYWORD_ONLY}
    further -= {"weights", "reduction"}
    assert (loss.parameters is not None) == hasattr(command_line, name)
    if loss.parameters is None:
        assert not further
        return
    declared = getattr(command_line, name)
    assert type(declared) is loss.parameters
    assert {field.name for field in fields(declared)} - {"reduction"} == further - NOT_ON_THE_COMMAND_LINE
    for field in fields(declared):
        assert inspect.signature(loss).parameters[field.name].default == field.default
        assert re.search(rf"^    {field.name}: \S", inspect.getdoc(loss), re.MULTILINE), "no text in the docstring"
    lists = random_lists(name)
    given = loss.sums(*lists, **asdict(declared))
    assert torch.equal(given.numerator, loss.sums(*lists).numerator)
    assert given.reduction == loss.sums(*lists).reduction


def test_every_set_of_parameters_has_its_loss():
    assert {field.name for field in fields(LossParameters)} <= set(LOSSES)


def test_parameters_are_read_without_torch():
    code = "import sys, xmrank.losses, xmrank.losses.loss_parameters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_name_that_is_no_loss():
    with pytest.raises(AttributeError, match=r"module 'xmrank\.losses' has no attribute 'listnot'"):
        xmrank.losses.listnot  # noqa: B018


@names
def test_registry_names_documented_functions(name):
    loss = LOSSES[name]
    assert getattr(xmrank.losses, name) is loss
    assert loss.__name__ == name
    assert all(part in inspect.getdoc(loss) for part in ("Definition:", "Args:", "Returns:", "Source:"))
    signature = inspect.signature(loss)
    positional = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert [p.name for p in positional] == ["scores", "labels", "mask"]
    assert signature.parameters["mask"].default is None
    assert signature.return_annotation is torch.Tensor
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    assert pickle.loads(pickle.dumps(loss)) is loss  # noqa: S301


@pytest.mark.parametrize("log_scores", [True, False])
def test_stochastic_samples(log_scores):
    """With the same noise, padding changes nothing; with the same generator, nothing does."""
    loss, lists = LOSSES["neural_ndcg"], random_lists("neural_ndcg")
    settings = {"stochastic_samples": 3, "noise_scale": 0.5, "log_scores": log_scores}
    first, second = (
        loss(*lists[:2], generator=torch.Generator().manual_seed(seed), **settings).item() for seed in (1, 2)
    )
    assert first == loss(*lists[:2], generator=torch.Generator().manual_seed(1), **settings).item() != second
    noise = torch.randn(3, 4, 6, dtype=torch.float64)
    value, gradient = value_and_gradient(loss, lists, noise=noise, **settings)
    padded, real = insert_padding(lists, (2,), garbage=-50.0)
    wide = torch.cat([noise[..., :2], noise[..., :1] + 9, noise[..., 2:]], 2)
    padded_value, padded_gradient = value_and_gradient(loss, padded, noise=wide, **settings)
    assert_close(padded_value, value, rtol=1e-12, atol=0)
    assert_close(padded_gradient[:, real], gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()))
    alone = [
        loss(*(p[i : i + 1] for p in lists[:2]), noise=noise[:, i : i + 1], independent=True, **settings)
        for i in range(4)
    ]
    joint = loss(*lists[:2], noise=noise, independent=True, **settings)
    assert_close(joint, sum(alone) / 4, rtol=1e-12, atol=0)


def test_listmle_shuffles_only_tied_labels():
    scores, labels = torch.randn(2, 5, dtype=torch.float64), torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]]).expand(2, 5)
    values = {round(LOSSES["listmle"](scores, labels, generator=_seeded(seed)).item(), 9) for seed in range(20)}
    assert len(values) > 1
    untied = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0]]).expand(2, 5)
    assert LOSSES["listmle"](scores, untied, generator=_seeded(0)) == LOSSES["listmle"](scores, untied)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@variants
def test_on_a_gpu(name, parameters):
    """The same number as on the CPU, and the host never waits for the device."""
    lists = random_lists(name)
    value, gradient = value_and_gradient(LOSSES[name], lists, **parameters)
    there = Lists(*(part.cuda() for part in lists))
    value_and_gradient(LOSSES[name], there, **parameters)  # loads what is loaded once
    torch.cuda.set_sync_debug_mode("error")
    try:
        device_value, device_gradient = value_and_gradient(LOSSES[name], there, **parameters)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close(device_value.cpu(), value, rtol=1e-9, atol=1e-12)
    assert_close(device_gradient.cpu(), gradient, rtol=1e-8, atol=1e-10)
