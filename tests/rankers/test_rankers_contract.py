"""What every ranker keeps to, with every choice of features. A new ranker is one row of `ROWS`."""

import json
from typing import get_args

import pytest
import torch
from ranker_samples import build, give_tokens
from safetensors.torch import load, save

from xmrank.rankers import RANKERS, rebuild_ranker
from xmrank.rankers.parameters import AnyRankerParameters

ROWS = {
    "context_aware": {
        "width": 8,
        "hidden": [7],
        "activation": "gelu",
        "heads": 2,
        "feed_forward": 12,
        "positional": "learned",
    },
    "pointwise": {"hidden": [8, 6], "activation": "tanh"},
    "late_interaction": {
        "width": 8,
        "heads": 2,
        "token_width": 8,
        "token_heads": 2,
        "image_token_layers": 1,
        "token_convolutions": 2,
        "token_gain": 2.0,
        "token_dropout": 0.0,
    },
    "cross_attention": {
        "width": 8,
        "heads": 2,
        "token_width": 8,
        "token_heads": 2,
        "cross_layers": 2,
        "token_convolutions": 2,
        "token_gain": 2.0,
        "token_dropout": 0.0,
    },
    "linear": {},
}
PLAIN = {"residual": None, "zero_init_output": False}
"""No residual, and nothing at zero, as far as a test does not say otherwise."""
FEATURES = {
    "concat": {"features": ["concat"]},
    "product": {"features": ["product"]},
    "difference": {"features": ["difference"]},
    "cosine": {"features": ["cosine"]},
    "concat+cosine": {"features": ["concat", "cosine"]},
    "all": {"features": ["concat", "product", "difference", "cosine"]},
    "concat, normalised": {"features": ["concat"], "input_norm": True},
    "all, normalised": {"features": ["concat", "product", "difference", "cosine"], "input_norm": True},
}
PROJECTABLE = ["concat", "concat+cosine", "concat, normalised"]

every_ranker = pytest.mark.parametrize("name", RANKERS)
# Tokens and item features meet in one sum: the rankers that read tokens need not be tested with every choice.
CASES = [
    (name, choice)
    for name, kind in RANKERS.items()
    for choice in (["concat", "all"] if kind.parameters_type.reads_tokens else FEATURES)
]
every_case = pytest.mark.parametrize(("name", "choice"), CASES)


def make(name, choice="all", **parameters):
    """A float64 ranker in evaluation mode, no parameter at a value that would hide it (a scale of 1, a shift of 0)."""
    torch.manual_seed(3)
    ranker = build(name, dimensions=6, **{**PLAIN, **ROWS[name], **FEATURES[choice], **parameters}).double().eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return ranker


def gradients(ranker, weights, *inputs, **keywords):
    """The parameters' gradients of a weighted sum of the scores; those that have none left out."""
    ranker.zero_grad()
    (ranker(*inputs, **keywords) * weights).sum().backward()
    return {key: p.grad.clone() for key, p in ranker.named_parameters() if p.grad is not None}


def insert_padding(lists, at, garbage):
    """The lists with padding in front of the items `at[list]`; as many in each list. Returns them with their mask."""
    query, candidates, similarity = lists
    count, items = similarity.shape
    total = items + len(at[0])
    mask = torch.ones(count, total, dtype=torch.bool)
    for row, padding in enumerate(at):
        mask[row, padding] = False
    padded = torch.full((count, total, candidates.shape[-1]), garbage, dtype=candidates.dtype)
    padded[mask] = candidates.flatten(0, 1)
    padded_similarity = torch.full((count, total), garbage, dtype=similarity.dtype)
    padded_similarity[mask] = similarity.flatten()
    return (query, padded, padded_similarity), mask


def test_every_ranker_has_a_row():
    assert set(ROWS) == set(RANKERS)
    assert all(kind.parameters_type.name == name for name, kind in RANKERS.items())


def test_settings_may_choose_every_ranker():
    assert {kind.parameters_type for kind in RANKERS.values()} == set(get_args(AnyRankerParameters))


@every_case
def test_scores_follow_their_items(name, choice, lists):
    ranker, (query, candidates, similarity) = make(name, choice), lists
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = ranker(query, candidates[:, order], similarity[:, order])
    torch.testing.assert_close(moved, ranker(*lists)[:, order], rtol=0, atol=1e-12)


@every_case
def test_items_have_different_scores(name, choice, lists):
    scores = make(name, choice)(*lists)
    assert scores.shape == (3, 5)
    assert (scores.std(dim=1) > 1e-4).all()


@every_case
@pytest.mark.parametrize("garbage", [1e3, float("nan"), float("inf")])
def test_padding_changes_nothing(name, choice, garbage, lists):
    ranker = make(name, choice, residual=2.0)
    padded, mask = insert_padding(lists, at=[[0, 3, 7], [5, 6, 7], [0, 1, 2]], garbage=garbage)
    weights = torch.randn(3, 5, dtype=torch.float64)
    scores = ranker(*padded, mask=mask)
    torch.testing.assert_close(scores[mask].view(3, 5), ranker(*lists), rtol=0, atol=1e-12)
    assert (scores[~mask] == 0).all()

    expected = gradients(ranker, weights, *lists)
    padded_weights = torch.full_like(scores, 5.0).masked_scatter(mask, weights)
    for key, gradient in gradients(ranker, padded_weights, *padded, mask=mask).items():
        torch.testing.assert_close(gradient, expected[key], rtol=0, atol=1e-11, msg=key)


@every_case
def test_an_empty_list_changes_nothing_for_the_others(name, choice, lists):
    ranker = make(name, choice, residual=2.0, layer_norm="unbiased") if name == "context_aware" else make(name, choice)
    query, candidates, similarity = (torch.cat([part, torch.full_like(part[:1], torch.nan)]) for part in lists)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[3] = False
    scores = ranker(query, candidates, similarity, mask=mask)
    torch.testing.assert_close(scores[:3], ranker(*lists), rtol=0, atol=1e-12)
    assert (scores[3] == 0).all()

    expected = gradients(ranker, torch.ones(3, 5), *lists)
    for key, gradient in gradients(ranker, torch.ones(4, 5), query, candidates, similarity, mask=mask).items():
        torch.testing.assert_close(gradient, expected[key], rtol=0, atol=1e-11, msg=key)


@pytest.mark.filterwarnings("ignore:var_mean")  # torch warns of the variance of an empty batch
@every_case
def test_a_batch_of_empty_lists_and_an_empty_batch_have_gradients(name, choice, lists):
    ranker = make(name, choice)
    blank = gradients(ranker, torch.ones(3, 5), *lists, mask=torch.zeros(3, 5, dtype=torch.bool))
    assert blank
    assert all((gradient == 0).all() for gradient in blank.values())
    assert gradients(ranker, torch.ones(0, 5), *(part[:0] for part in lists))


@every_case
def test_an_empty_list_in_training_leaves_gradients_finite(name, choice, lists):
    rates = {"input_dropout": 0.3} | ({} if name == "linear" else {"dropout": 0.3})  # attention has a path of its own
    ranker = make(name, choice, **rates).train()
    mask = torch.tensor([[True] * 5, [True, False, True, True, False], [False] * 5])
    reached = gradients(ranker, torch.ones(3, 5), *lists, mask=mask)
    assert all(gradient.isfinite().all() for gradient in reached.values())
    assert ranker(*lists, mask=mask).isfinite().all()


@every_case
def test_gradients_reach_every_parameter(name, choice, lists):
    ranker = make(name, choice, residual=2.0)
    reached = gradients(ranker, torch.randn(3, 5, dtype=torch.float64), *lists)
    assert set(reached) == {key for key, _ in ranker.named_parameters()}
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in reached.values())


@every_case
def test_rebuilt_from_safetensors_and_json(name, choice, lists):
    ranker = make(name, choice, residual=3.0, levels=2, dropout=0.2) if name != "linear" else make(name, choice)
    weights, description = save(ranker.state_dict()), json.dumps(ranker.describe())
    rebuilt = give_tokens(rebuild_ranker(json.loads(description))).double().eval()
    assert rebuilt.describe() == ranker.describe()
    rebuilt.load_state_dict(load(weights))
    assert torch.equal(rebuilt(*lists), ranker(*lists))


@every_case
@pytest.mark.parametrize("learnable", [True, False])
def test_zero_output_starts_at_the_first_stage(name, choice, learnable, lists):
    start = {"zero_init_output": True, "residual": 25.0, "residual_learnable": learnable, "input_dropout": 0.5}
    torch.manual_seed(0)
    ranker = build(name, dimensions=6, **ROWS[name], **FEATURES[choice], **start).double().train()
    assert torch.equal(ranker(*lists), 25.0 * lists[2])
    assert ("residual" in dict(ranker.named_parameters())) == learnable
    reached = gradients(ranker, torch.randn(3, 5, dtype=torch.float64), *lists)
    assert any(gradient.abs().sum() > 0 for key, gradient in reached.items() if key != "residual")


@every_ranker
def test_the_residual_is_added_after_the_output_activation(name, lists):
    plain = make(name, "all", output_activation="sigmoid")
    state = plain.state_dict() | {"residual": torch.tensor(-1.5, dtype=torch.float64)}
    ranker = make(name, "all", output_activation="sigmoid", residual=1.0)
    ranker.load_state_dict(state)
    assert ((plain(*lists) > 0) & (plain(*lists) < 1)).all()
    torch.testing.assert_close(ranker(*lists), plain(*lists) - 1.5 * lists[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "rate"),
    [(name, "input_dropout") for name in RANKERS]
    + [(name, "dropout") for name in RANKERS if name != "linear"]
    + [(name, "token_dropout") for name, kind in RANKERS.items() if kind.parameters_type.reads_tokens],
)
def test_dropout_acts_in_training_only(name, rate, lists):
    ranker = make(name, "all", **{rate: 0.5})
    without = make(name, "all", **{rate: 0.0})
    assert torch.equal(ranker(*lists), ranker(*lists))
    assert torch.equal(ranker(*lists), without(*lists))
    assert not torch.allclose(ranker.train()(*lists), ranker(*lists))
    torch.manual_seed(1)
    first = ranker(*lists)
    torch.manual_seed(1)
    assert torch.equal(ranker(*lists), first)


@every_ranker
def test_the_global_seed_decides_the_start(name):
    def start(seed):
        torch.manual_seed(seed)
        return build(name, dimensions=6, **ROWS[name]).state_dict()

    first, again, other = start(0), start(0), start(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["input.weight"], other["input.weight"])


@every_ranker
@pytest.mark.parametrize("choice", PROJECTABLE)
def test_projected_candidates_give_equal_scores(name, choice, lists):
    ranker, (query, candidates, similarity) = make(name, choice), lists
    table = candidates.flatten(0, 1)
    projected = ranker.project_candidates(table)
    assert projected.shape == (15, ranker.input.projected_size)
    rows = torch.arange(15).view(3, 5)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False], [False] * 5])
    for keywords in ({}, {"mask": mask}):
        scores = ranker(query, projected[rows], similarity, projected=True, **keywords)
        torch.testing.assert_close(scores, ranker(*lists, **keywords), rtol=0, atol=1e-12)


@every_ranker
@pytest.mark.parametrize("choice", [choice for choice in FEATURES if choice not in PROJECTABLE])
def test_features_of_both_sides_cannot_be_projected(name, choice, lists):
    ranker, (query, candidates, similarity) = make(name, choice), lists
    with pytest.raises(ValueError, match="concat and cosine only"):
        ranker.project_candidates(candidates[0])
    with pytest.raises(ValueError, match="concat and cosine only"):
        ranker(query, torch.zeros(3, 5, ranker.input.projected_size), similarity, projected=True)


@every_ranker
def test_an_ordinal_head_gives_a_score_a_level(name, lists):
    ranker = make(name, "all", levels=3, residual=2.0)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False], [False] * 5])
    levels = ranker(*lists, mask=mask)
    assert levels.shape == (3, 5, 3)
    assert (levels[~mask] == 0).all()
    expected = torch.where(mask, (1 / (1 + (-levels).exp())).sum(-1), 0.0)
    torch.testing.assert_close(ranker.score(*lists, mask=mask), expected, rtol=0, atol=1e-12)
    single = make(name, "all")
    assert torch.equal(single.score(*lists, mask=mask), single(*lists, mask=mask))


@every_ranker
def test_probabilities_of_levels_are_summed_as_they_are(name, lists):
    ranker = make(name, "all", levels=3, output_activation="sigmoid")
    torch.testing.assert_close(ranker.score(*lists), ranker(*lists).sum(-1), rtol=0, atol=1e-12)


@every_ranker
def test_lower_precisions_are_computed_in_the_parameters_dtype(name, lists):
    ranker = make(name).float()
    half = [part.half() for part in lists]
    assert torch.equal(ranker(*half), ranker(*(part.float() for part in half)))
    with torch.autocast("cpu", torch.bfloat16):
        scores = ranker(*lists, mask=torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(scores.float(), ranker(*lists), rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # stacking is for GPUs, whose kernels have the rule
@every_ranker
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_models_can_be_stacked_along_a_leading_axis(name, dropout, lists):
    torch.manual_seed(0)
    values = {**PLAIN, **ROWS[name], **FEATURES["all"], "residual": 2.0}
    rankers = [build(name, dimensions=6, **values) for _ in range(2)]
    skeleton = build(name, dimensions=6, **values, input_dropout=dropout)
    stacked = torch.func.stack_module_state([ranker.double() for ranker in rankers])
    inputs = [torch.stack([part, part.flip(0)]) for part in lists]

    def one(state, *parts):
        return torch.func.functional_call(skeleton, state, parts)

    scores = torch.vmap(one, randomness="different")(stacked, *inputs)
    separate = torch.stack([rankers[0](*lists), rankers[1](*(part.flip(0) for part in lists))])
    if dropout:
        assert not torch.allclose(scores, separate)
    else:
        torch.testing.assert_close(scores, separate, rtol=0, atol=1e-12)
