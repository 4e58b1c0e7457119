"""The methods: losses against reference values and arithmetic, and what each of them may and may not see."""

import itertools
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn, tensor

from xmrank.baselines.baseline_settings import CcaSettings, DccaSettings, KernelSettings
from xmrank.config import SupervisedConfig
from xmrank.config.supervised import METHODS, Clip4cmrConfig, DscmrConfig, LcmConfig
from xmrank.config.supervised_methods import (
    METHOD_SETTINGS,
    SOLVED,
    AcmrConfig,
    AlgcnConfig,
    CfaConfig,
    CorrAeConfig,
    DcdhConfig,
    GchConfig,
    GmaConfig,
    MlCcaConfig,
    PanConfig,
    SrlchConfig,
)
from xmrank.supervised.clip4cmr import Clip4cmr, clip4cmr_loss
from xmrank.supervised.dscmr import Dscmr, dscmr_loss
from xmrank.supervised.labelled_set import LabelledItems, LabelledSet, labelled_set, with_labels
from xmrank.supervised.lcm import Lcm, LcmTrainer, label_loss, lcm_loss, make_pivots, pivot_loss, squared_distance
from xmrank.supervised.map_evaluation import NAIVE, PREDICTED, TWO_STAGE, measure_searches
from xmrank.supervised.method_training import TwoSides, average_precisions, draw_batches, train_module
from xmrank.supervised.methods import FITS, fit_method
from xmrank.supervised.pan import pan_loss
from xmrank.supervised.two_stage_knn import by_distance

REFERENCE = os.environ.get("XMRANK_REFERENCE")
QUICK = SupervisedConfig(
    data=("blobs=x",),
    neighbours=15,
    lcm=LcmConfig(width=32, dimensions=16, rounds=12, batch_size=32),
    dscmr=DscmrConfig(width=64, dimensions=32, epochs=12, learning_rate=1e-3),
    clip4cmr=Clip4cmrConfig(width=32, dimensions=32, epochs=12, batch_size=50, learning_rate=1e-3),
    cca=CcaSettings(dimensions=3),
    kernel_cca=KernelSettings(dimensions=3),
    dcca=DccaSettings(dimensions=3, hidden=16, epochs=3, batch_size=100),
    cfa=CfaConfig(dimensions=4),
    ml_cca=MlCcaConfig(dimensions=3),
    gma=GmaConfig(dimensions=3),
    corr_ae=CorrAeConfig(width=16, dimensions=8, epochs=3),
    acmr=AcmrConfig(width=32, second_width=16, dimensions=8, epochs=12, learning_rate=3e-3),
    algcn=AlgcnConfig(dimensions=32, label_size=8, epochs=12, learning_rate=1e-3),
    pan=PanConfig(width=32, dimensions=16, epochs=12, learning_rate=1e-3),
    srlch=SrlchConfig(bits=16, anchors=40),
    dcdh=DcdhConfig(bits=8, width=16, epochs=4),
    gch=GchConfig(bits=16, width=32, epochs=6, batch_size=50),
)


def blobs(*, several=False, text=12, noise=0.7, seed=0) -> LabelledSet:
    """Four classes as noisy directions, images of 12 and texts of ``text`` dimensions; 200 training, 60 test pairs."""
    generator = np.random.default_rng(seed)
    centres = {"image": generator.normal(size=(4, 12)), "text": generator.normal(size=(4, text))}
    parts = {}
    for part, count in (("train", 200), ("validation", 40), ("test", 60)):
        labels = np.eye(4, dtype=bool)[generator.integers(0, 4, count)]
        if several:
            labels |= np.eye(4, dtype=bool)[generator.integers(0, 4, count)]
        sides = {
            side: labels @ centre + noise * generator.normal(size=(count, centre.shape[1]))
            for side, centre in centres.items()
        }
        parts[part] = LabelledItems(sides["image"], sides["text"], labels)
    return labelled_set("blobs", "", parts, tuple("abcd"), seed=0, source="blobs")


def mean_of(actual, search):
    """The mean over both directions of a search's mAP."""
    return np.mean([np.nanmean(entry.precision) for entry in actual if entry.search == search])


# --- DSCMR


@pytest.mark.skipif(REFERENCE is None, reason="XMRANK_REFERENCE does not name the folder of reference values")
@pytest.mark.parametrize("case", ["case0", "case1", "case2", "case3"])
@pytest.mark.parametrize("weights", [(0.001, 0.1), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize(("bits", "rtol"), [("64", 1e-9), ("32", 1e-4)])
def test_dscmr_equals_the_public_code(case, weights, bits, rtol):
    values = np.load(Path(REFERENCE) / "dscmr.npz")
    dtype = {"64": torch.float64, "32": torch.float32}[bits]
    inputs = [
        torch.from_numpy(values[f"{case}.{name}"]).to(dtype).requires_grad_() for name in ("f1", "f2", "p1", "p2")
    ]
    labels = torch.from_numpy(values[f"{case}.labels"]).to(dtype)
    alpha, beta = weights
    loss = dscmr_loss(*inputs, labels, alpha=alpha, beta=beta)
    loss.backward()
    key = f"{case}.alpha{alpha}_beta{beta}"
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(float(values[f"{key}.loss{bits}"]), rel=rtol)
    for name, given in zip(("f1", "f2", "p1", "p2"), inputs, strict=True):
        expected = values[f"{key}.grad_{name}{bits}"]
        actual = np.zeros_like(expected) if given.grad is None else given.grad.numpy()
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-6 if bits == "32" else 1e-14)


def test_dscmr_spelled_out():
    image, text = tensor([[1.0, 0.0], [0.0, 2.0]]), tensor([[0.0, 1.0], [3.0, 0.0]])
    labels = tensor([[1.0, 0.0], [1.0, 1.0]])
    predictions = tensor([[0.0, 0.0], [1.0, 1.0]])

    def softplus(x):
        return math.log(1 + math.exp(x))

    same = (2 * (softplus(0.5) + softplus(0.0)) - 1 * 0.5 - 2 * 0.5) / 4  # cos 1 on the diagonal, 0 off it; S 1, 1, 2
    across = (2 * (softplus(0.0) + softplus(0.5)) - 1 * 0.5 - 1 * 0.5) / 4  # cos 0 on the diagonal, 1 off it
    apart = (math.sqrt(2) + math.sqrt(9 + 4)) / 2
    expected = 2 * (1 + 0) / 2 + 0.5 * (same + across + same) + 0.25 * apart
    assert dscmr_loss(image, text, predictions, predictions, labels, alpha=0.5, beta=0.25).item() == pytest.approx(
        expected
    )


def test_dscmrs_gradient_is_finite_where_pairs_coincide():
    image = torch.ones(3, 4, requires_grad=True)
    predictions = torch.ones(3, 2, requires_grad=True)
    dscmr_loss(image, image, predictions, predictions, torch.ones(3, 2)).backward()
    assert image.grad.isfinite().all() and predictions.grad.isfinite().all()


def test_dscmrs_sides_share_a_layer_and_end_at_unit_length():
    module = Dscmr(12, 5, 4, DscmrConfig(width=8, dimensions=6))
    assert module.image[2] is module.text[2]
    assert np.linalg.norm(module.embed("text", np.ones((3, 5), "f4")), axis=1) == pytest.approx([1, 1, 1])


# --- CLIP4CMR


def test_pan_is_a_cross_entropy_over_distances():
    features, prototypes = tensor([[1.0, 0.0], [0.0, 0.0]]), tensor([[1.0, 0.0], [0.0, 2.0]])
    first = math.log(math.exp(0) + math.exp(-5)) - 0  # squared distances 0 and 5
    second = math.log(math.exp(-1) + math.exp(-4)) + 4  # 1 and 4; the second prototype is its own
    assert pan_loss(features, prototypes, tensor([[1.0, 0.0], [0.0, 1.0]])).item() == pytest.approx(
        (first + second) / 2
    )


def test_pan_shares_its_target_among_several_labels_and_leaves_out_items_without():
    features, prototypes = torch.randn(3, 4), torch.randn(5, 4)
    each = [pan_loss(features[:1], prototypes, torch.eye(5)[label][None]) for label in (1, 3)]
    labels = torch.zeros(3, 5)
    labels[0, [1, 3]] = 1
    assert pan_loss(features, prototypes, labels).item() == pytest.approx(sum(each).item() / 2, rel=1e-5)
    features.requires_grad_()
    nothing = pan_loss(features, prototypes, torch.zeros(3, 5))
    nothing.backward()
    assert nothing.item() == 0 and (features.grad == 0).all()


def test_clip4cmrs_network_is_the_papers():
    module = Clip4cmr(7, 5, 3, Clip4cmrConfig())
    kinds = [nn.Linear, nn.GELU, nn.Linear, nn.Dropout]
    assert [type(layer) for layer in module.image[:4]] == kinds
    assert [module.image[0].out_features, module.image[2].out_features, module.image[3].p] == [256, 1024, 0.1]
    assert np.linalg.norm(module.embed("text", np.ones((2, 5), "f4")), axis=1) == pytest.approx([1, 1], abs=1e-6)


def test_the_loss_of_clip4cmr_by_hand():
    image, text = tensor([[0.6, 0.8]]), tensor([[0.0, 1.0]])
    prototypes = tensor([[3.0, 0.0], [0.0, 0.5]])  # scaled to (1, 0) and (0, 1)
    # Squared distances: 0.16 + 0.64 and 0.36 + 0.04; 2 and 0.
    expected = math.log(1 + math.exp(-0.4 + 0.8)) + math.log(1 + math.exp(2.0))
    assert clip4cmr_loss(image, text, prototypes, tensor([[1.0, 0.0]])).item() == pytest.approx(expected, rel=1e-5)
    module = Clip4cmr(2, 2, 2, Clip4cmrConfig(width=4, dimensions=2)).eval()
    outputs = module.image(image), module.text(text)
    whole = clip4cmr_loss(*outputs, module.prototypes, torch.eye(2)[:1])
    assert module.compute_loss(image, text, torch.eye(2)[:1]).item() == pytest.approx(whole.item())


# --- LCM


def test_lcms_networks_are_the_papers():
    module = Lcm(128, 10, 6, LcmConfig())
    kinds = [nn.Linear, nn.BatchNorm1d, nn.Sigmoid, nn.Dropout, nn.Linear, nn.Tanh]
    for side, inputs in ((module.image, 128), (module.text, 10)):
        assert [type(layer) for layer in side] == kinds
        assert (side[0].in_features, side[0].out_features, side[4].out_features, side[3].p) == (inputs, 256, 32, 0.2)
    assert [type(layer) for layer in (*module.encoder, *module.decoder)] == [nn.Linear, nn.Tanh, nn.Linear, nn.Sigmoid]
    assert (module.encoder[0].in_features, module.decoder[0].out_features) == (6, 6)


def test_pivots_are_signs_and_the_sign_of_0_is_1():
    weights = {"a": 0.5, "b": 0.25, "c": 1.0}
    image, text, labels = tensor([[1.0, -1.0, 0.0]]), tensor([[0.0, 1.0, 0.0]]), tensor([[-0.4, 0.2, 0.0]])
    # 0.5 − 0.4; −0.5 + 0.25 + 0.2; 0
    assert make_pivots(image, text, labels, **weights).tolist() == [[1.0, -1.0, 1.0]]
    assert make_pivots(image, text, None, **weights).tolist() == [[1.0, -1.0, 1.0]]
    assert make_pivots(-image, text, None, **weights).tolist() == [[-1.0, 1.0, 1.0]]


def test_the_losses_of_lcm_spelled_out():
    assert (
        squared_distance(tensor([[1.0, 2.0], [0.0, 0.0]]), tensor([[0.0, 0.0], [0.0, 3.0]])).item() == (1 + 4 + 9) / 2
    )
    image, text = tensor([[0.5], [0.0]]), tensor([[-0.5], [0.25]])
    latent, rebuilt, labels = tensor([[0.5], [-1.0]]), tensor([[0.75], [0.5]]), tensor([[1.0], [0.0]])
    pivots = tensor([[1.0], [-1.0]])
    within = (0.25**2 + 0.5**2) / 2 + 0.5 * (0.5**2 + 0) / 2
    assert label_loss(latent, rebuilt, labels, pivots, sigma=0.5).item() == pytest.approx(within)
    # Sums over items, where all others are means.
    pivot = 2 * (0.5**2 + 1) + 3 * (1.5**2 + 1.25**2) + 4 * (0.5**2 + 0)
    weights = {"a": 2.0, "b": 3.0, "c": 4.0}
    assert pivot_loss(image, text, latent, pivots, **weights).item() == pytest.approx(pivot)
    whole = (0.5**2 + 1) / 2 + (1.5**2 + 1.25**2) / 2 + within + pivot
    actual = lcm_loss(image, text, latent, rebuilt, labels, pivots, **weights, sigma=0.5)
    assert actual.item() == pytest.approx(whole)


def test_no_pivots_have_a_lower_loss_than_those_of_equation_6():
    sides = torch.rand(3, 1, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weights = {"a": 0.3, "b": 0.5, "c": 0.4}
    best = pivot_loss(*sides, make_pivots(*sides, **weights), **weights)
    others = [pivot_loss(*sides, tensor([signs]), **weights) for signs in itertools.product((-1.0, 1.0), repeat=4)]
    assert best.item() == pytest.approx(min(others).item())


def test_the_trainer_of_lcm_hands_the_networks_outputs_to_the_loss():
    module = Lcm(2, 2, 1, LcmConfig(dimensions=1))
    with torch.no_grad():
        for network in (module.encoder, module.decoder):
            network[0].weight.fill_(2.0)
            network[0].bias.fill_(-1.0)
    latent = math.tanh(2 * 1 - 1)
    decoded = 1 / (1 + math.exp(-(2 * latent - 1)))
    trainer = LcmTrainer(module, blobs(), LcmConfig(dimensions=1, sigma=0.5), 0, torch.device("cpu"))
    expected = (decoded - 1) ** 2 + 0.5 * (latent + 1) ** 2
    assert trainer.measure_labels(tensor([[1.0]]), tensor([[-1.0]])).item() == pytest.approx(expected)


def test_without_a_label_network_labels_change_no_training(monkeypatch):
    """lcm_c0 may look at labels to choose the round, and nowhere else."""
    rising = itertools.count()  # so that the last round is kept
    monkeypatch.setattr("xmrank.supervised.lcm.two_stage_map", lambda *_: float(next(rising)))
    data = blobs()
    noise = np.random.default_rng(1).permutation(data.train.labels)
    other = replace(data, train=with_labels(data.train, noise))
    for method, equal in (("lcm_c0", True), ("lcm", False)):
        one, two = (fit_method(method, given, QUICK, 0).module.state_dict() for given in (data, other))
        assert all(torch.equal(one[name], two[name]) for name in one if name.startswith(("image", "text"))) is equal


def test_clusters_need_no_label_at_all():
    data = blobs()
    noise = np.random.default_rng(1).random((240, 4)) < 0.5
    train, validation = with_labels(data.train, noise[:200]), with_labels(data.validation, noise[200:])
    one, two = (
        fit_method("lcm_kmeans", d, QUICK, 0) for d in (data, replace(data, train=train, validation=validation))
    )
    assert not one.own_labels
    assert one.train_labels.sum(axis=1).tolist() == [1] * 200
    np.testing.assert_array_equal(one.embed("image", data.query.image), two.embed("image", data.query.image))
    assert {actual.search for actual in measure_searches(data, one, 15)} == {NAIVE, PREDICTED}


# --- all of them


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_query_labels_change_no_ranking(method, several):
    data = blobs(several=several)
    noise = np.random.default_rng(2).random(data.query.labels.shape) < 0.5
    blind = replace(data, query=with_labels(data.query, noise))
    rankings = [
        {(f.direction, f.search): f.digest for f in measure_searches(given, fit_method(method, given, QUICK, 0), 15)}
        for given in (data, blind)
    ]
    assert rankings[0] == rankings[1]
    assert len(rankings[0]) == (4 if method == "lcm_kmeans" else 6)


def test_the_labels_of_the_retrieval_set_are_seen_by_two_stage_search_alone():
    data = blobs()
    noise = np.random.default_rng(2).permutation(data.retrieval.labels)
    other = replace(data, retrieval=with_labels(data.retrieval, noise))
    fitted = fit_method("lcm", data, QUICK, 0)
    one, two = (
        {(f.direction, f.search): f.digest for f in measure_searches(given, fitted, 15)} for given in (data, other)
    )
    assert {search for key, digest in one.items() if digest != two[key] for search in key[1:]} == {TWO_STAGE}


@pytest.mark.parametrize("method", ["lcm", "dscmr", "clip4cmr"])
def test_what_is_learned_separates_classes(method, monkeypatch):
    rising = itertools.count()  # lcm's two-stage mAP is best long before its distances are
    monkeypatch.setattr("xmrank.supervised.lcm.two_stage_map", lambda *_: float(next(rising)))
    data = blobs()
    before = mean_of(measure_searches(data, fit_method("embeddings", data, QUICK, 0), 15), NAIVE)
    fitted = fit_method(method, data, replace(QUICK, lcm=replace(QUICK.lcm, rounds=25)), 0)
    actual = measure_searches(data, fitted, 15)
    assert mean_of(actual, NAIVE) > before + 0.15
    assert mean_of(actual, TWO_STAGE) > 0.9
    values = [entry["validation_map"] for entry in fitted.history]
    assert values.index(max(values)) == fitted.best_round - 1
    assert fitted.history[-1]["total"] < fitted.history[0]["total"]


@pytest.mark.parametrize("method", [method for method in METHODS if method not in SOLVED])
def test_the_same_seed_gives_the_same_space_and_another_another(method):
    data = blobs()
    torch.manual_seed(123)  # the caller's random numbers matter to nobody, and stay where they were
    state = torch.get_rng_state()
    one, same, other = (fit_method(method, data, QUICK, seed).embed("image", data.query.image) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_features_of_two_lengths_have_no_distance_as_they_are():
    data = blobs(text=5)
    actual = measure_searches(data, fit_method("embeddings", data, QUICK, 0), 15)
    assert {entry.search for entry in actual} == {TWO_STAGE, PREDICTED}
    assert mean_of(actual, TWO_STAGE) > 0.8  # stage 1 needs none


def test_stage_1_ranks_the_true_label():
    data = blobs(noise=0.01)
    entry = next(
        f for f in measure_searches(data, fit_method("embeddings", data, QUICK, 0), 15) if f.search == TWO_STAGE
    )
    assert entry.reciprocal_rank.tolist() == [1.0] * 60
    unlabelled = replace(data, query=with_labels(data.query, np.zeros_like(data.query.labels)))
    entry = next(
        f for f in measure_searches(unlabelled, fit_method("embeddings", data, QUICK, 0), 15) if f.search == TWO_STAGE
    )
    assert np.isnan(entry.reciprocal_rank).all() and np.isnan(entry.precision).all()


def test_relevant_is_what_shares_a_label():
    queries, items = np.zeros((1, 1), np.float32), np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    labels = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0]], bool)
    (value,) = average_precisions(by_distance(queries, items), np.array([[0, 1, 0]], bool), labels)
    assert value == pytest.approx((1 / 1 + 2 / 3) / 2)


class OneNumber(TwoSides):
    """A module with a single parameter."""

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))


def test_training_stops_and_keeps_the_earliest_best():
    module, values = OneNumber(), iter([0.1, 0.5, 0.2, 0.5, 0.4, 0.9])

    def train_epoch():
        with torch.no_grad():
            module.number += 1
        return {"total": module.number.item()}

    best = train_module(module, train_epoch, lambda: next(values), epochs=100, patience=3)
    assert (best.number, len(best.epochs), module.number.item()) == (2, 5, 2.0)
    assert best.epochs[1] == {"total": 2.0, "validation_map": 0.5}


@pytest.mark.parametrize(("count", "size", "parts"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (8, 4, [4, 4])])
def test_batches_hold_every_row_once_and_never_end_with_a_single_one(count, size, parts):
    actual = list(draw_batches(count, size, torch.Generator().manual_seed(0)))
    assert [len(part) for part in actual] == parts
    assert sorted(torch.cat(actual).tolist()) == list(range(count))


def test_the_registry_holds_what_the_command_line_names():
    assert set(FITS) == set(METHODS)
    assert all(hasattr(QUICK, name) for name in METHOD_SETTINGS.values() if name)


def test_nothing_random_enters_a_solved_method():
    data = blobs()
    for method in SOLVED:
        one, other = (fit_method(method, data, QUICK, seed).embed("image", data.query.image) for seed in (3, 4))
        np.testing.assert_array_equal(one, other)
