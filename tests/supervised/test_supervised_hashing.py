"""Methods with hash codes: their losses, one step and codes on inputs small enough to follow, and Hamming search."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from test_supervised_methods import QUICK, blobs, mean_of
from torch import tensor

from xmrank.config.supervised_methods import DcdhConfig, SrlchConfig
from xmrank.supervised.dcdh import (
    Dcdh,
    DcdhTrainer,
    asymmetric_loss,
    balanced_similarity,
    dcdh_loss,
    focal_loss,
    update_codes,
)
from xmrank.supervised.gch import affinity_of, beacon_loss, graph_code_loss, likelihood_loss, student_loss, teacher_loss
from xmrank.supervised.hash_codes import by_hamming, pack_codes, signs_of
from xmrank.supervised.map_evaluation import NAIVE, measure_searches
from xmrank.supervised.methods import fit_method
from xmrank.supervised.srlch import WEIGHTS, gaussian_features, improve_codes, srlch_objective
from xmrank.supervised.two_stage_knn import by_distance


def softplus(x):
    return math.log(1 + math.exp(x))


# --- Hamming search


def test_codes_are_signs_and_bits():
    assert signs_of(tensor([-0.5, 0.0, 2.0])).tolist() == [-1, 1, 1]
    # 1, −1, 1 and five bits that no code has: 10100000.
    assert pack_codes(np.array([[1.0, -1.0, 1.0]])).tolist() == [[0b10100000]]


def test_hamming_search_by_hand():
    queries = np.array([[1.0, 1.0, 1.0]])
    items = np.array([[-1.0, -1.0, -1.0], [1.0, 1.0, -1.0], [1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    ranking = by_hamming(queries, items)  # 3, 1, 0 and 1 bits differ
    assert ranking.order.tolist() == [[2, 1, 3, 0]]
    assert ranking.tied.tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("bits", [7, 16, 40])
def test_hamming_search_orders_codes_as_their_distance_does(bits):
    generator = np.random.default_rng(0)
    queries, items = (np.where(generator.random((n, bits)) < 0.5, -1.0, 1.0).astype("f4") for n in (20, 90))
    one, other = by_hamming(queries, items), by_distance(queries, items)
    np.testing.assert_array_equal(one.order, other.order)
    np.testing.assert_array_equal(one.tied, other.tied)


# --- SRLCH


def test_the_objective_of_srlch_and_one_round_by_hand():
    weights = {"image_weight": 0.5, "text_weight": 0.25, "label_ridge": 2.0, "image_ridge": 1.0, "text_ridge": 3.0}
    image, text, labels = np.array([[1.0], [0.0]]), np.array([[2.0], [1.0]]), np.array([[1.0], [1.0]])
    codes = np.array([[1.0], [-1.0]])
    state = np.array([[0.5]]), np.array([[1.0]]), np.array([[0.25]]), codes
    by_label = (1 - 0.25) ** 2 + (-1 - 0.25) ** 2 + 2 * 0.25**2
    by_image = 0.5 * ((1 - 0.5) ** 2 + 1 + 1 * 0.5**2)
    by_text = 0.25 * ((1 - 2) ** 2 + (-1 - 1) ** 2 + 3 * 1)
    assert srlch_objective(image, text, labels, *state, **weights) == pytest.approx(by_label + by_image + by_text)
    after = improve_codes(image, text, labels, codes, **weights)
    # P = 1 / (1 + 1), (2 − 1) / (5 + 3); W = (1 − 1) / (2 + 2).
    assert [after.image.item(), after.text.item(), after.labels.item()] == pytest.approx([1 / 2, 1 / 8, 0])
    # 0 + 0.5 · 0.5 + 0.25 · 0.25 and 0 + 0 + 0.25 · 0.125, both above 0.
    assert after.codes.tolist() == [[1.0], [1.0]]


def test_no_round_of_srlch_raises_its_objective():
    generator = np.random.default_rng(1)
    image, text = generator.random((30, 5)), generator.random((30, 6))
    labels = np.eye(3)[np.arange(30) % 3]
    codes = np.where(generator.random((30, 8)) < 0.5, -1.0, 1.0)
    weights = {name: getattr(SrlchConfig(text_weight=0.2), name) for name in WEIGHTS}
    values = []
    for _ in range(5):
        state = improve_codes(image, text, labels, codes, **weights)
        codes = state.codes
        values.append(srlch_objective(image, text, labels, state.image, state.text, state.labels, codes, **weights))
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(values))


def test_the_kernel_features_of_srlch_by_hand():
    actual = gaussian_features(tensor([[1.0, 1.0]]), tensor([[0.0, 0.0], [1.0, 0.0]]), sigma=0.5)
    assert_allclose(actual, [[math.exp(-2 / 0.5), math.exp(-1 / 0.5)]], rtol=1e-5)


def test_the_hash_codes_of_srlch_are_the_signs_of_its_projections():
    data = blobs()
    real, binary = (fit_method(name, data, QUICK, 0) for name in ("srlch", "srlch_hash"))
    assert binary.binary and not real.binary
    for side in ("image", "text"):
        codes = binary.embed(side, getattr(data.query, side))
        np.testing.assert_array_equal(codes, np.where(real.embed(side, getattr(data.query, side)) >= 0, 1, -1))


# --- DCDH


def test_similarities_of_dcdh_are_balanced_by_hand():
    labels = tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    # Seven of nine pairs share a label: r = 7 / 2.
    actual = balanced_similarity(labels, labels)
    assert actual[0].tolist() == [1, 1, -3.5] and actual.sum().item() == 0
    assert balanced_similarity(labels[:1], labels[:2]).tolist() == [[1, 1]]


def test_the_asymmetric_loss_by_hand():
    outputs, codes, similarity = tensor([[0.5, -1.0]]), tensor([[1.0, -1.0], [1.0, 1.0]]), tensor([[1.0, -0.5]])
    # u · v = 1.5 and −0.5, k S = 2 and −1; the own code is the first.
    expected = ((1.5 - 2) ** 2 + (-0.5 + 1) ** 2 + 3 * (0.5**2 + 0)) / (1 * 2)
    assert asymmetric_loss(outputs, codes, codes[:1], similarity, gamma=3.0).item() == pytest.approx(expected)


def test_the_focal_loss_by_hand():
    p = 1 / (1 + math.exp(-1.0))
    expected = (0.25 * (1 - p) ** 2 * -math.log(p) + 0.75 * p**2 * -math.log(1 - p)) / 2
    assert focal_loss(tensor([[1.0, 1.0]]), tensor([[1.0, 0.0]])).item() == pytest.approx(expected, rel=1e-5)


def test_the_codes_of_dcdh_move_by_hand():
    codes, rows = tensor([[1.0, 1.0], [1.0, -1.0]]), tensor([[-0.5, 0.5], [0.5, 1.0]])
    similarity = torch.eye(2)
    # Bit 0 of item i: −sign(2 V'O'ᵀo − 2 k Sᵀo − 2 γ o); V' = (1, −1), O'ᵀo = −0.25 + 0.5 = 0.25, k = 2, γ = 1.
    first = [-(0.25 - 2 * -0.5 - -0.5), -(-0.25 - 2 * 0.5 - 0.5)]
    # Bit 1, with bit 0 as it is now, (−1, 1): O'ᵀo is 0.25 again.
    second = [-(-0.25 - 2 * 0.5 - 0.5), -(0.25 - 2 * 1.0 - 1.0)]
    expected = [[math.copysign(1, a), math.copysign(1, b)] for a, b in zip(first, second, strict=True)]
    assert expected == [[-1, 1], [1, 1]]
    assert update_codes(codes, [(1.0, rows)], similarity, gamma=1.0).tolist() == expected


def test_moving_codes_lowers_what_they_are_for():
    generator = torch.Generator().manual_seed(0)
    outputs = [(w, torch.rand(12, 6, generator=generator) * 2 - 1) for w in (1.0, 0.5)]
    labels = torch.eye(3)[torch.arange(12) % 3]
    similarity = balanced_similarity(labels, labels)

    def measure(codes):
        return sum(
            w * ((rows @ codes.T - 6 * similarity).square().sum() + 2 * (codes - rows).square().sum())
            for w, rows in outputs
        ).item()

    codes = signs_of(torch.rand(12, 6, generator=generator) - 0.5)
    values = [measure(codes)]
    for _ in range(3):
        codes = update_codes(codes, outputs, similarity, gamma=2.0)
        values.append(measure(codes))
    assert all(later <= earlier + 1e-3 for earlier, later in itertools.pairwise(values))
    assert values[1] < values[0]


def test_the_loss_of_dcdh_by_hand():
    codes, labels, similarity = tensor([[1.0], [-1.0]]), tensor([[1.0]]), tensor([[1.0, -0.5]])
    image, text, told, joined, other = (tensor([[value]]) for value in (0.5, 0.0, 0.25, 1.0, -0.5))

    def asymmetric(u):  # k = 1, the item's own code is 1
        return ((u - 1) ** 2 + (-u + 0.5) ** 2 + 2 * (1 - u) ** 2) / 2

    focal = 0.25 * 0.5**2 * math.log(2)
    by_image = asymmetric(0.5) + 3 * (asymmetric(1.0) + focal + 0.1 * 0.25**2)
    by_text = asymmetric(0.0) + 3 * (asymmetric(-0.5) + focal + 0.1 * 0.25**2)
    given = {"gamma": 2.0, "label_weight": 4.0, "product_weight": 3.0, "distance_weight": 0.1}
    logits = [tensor([[0.0]])] * 2
    loss = dcdh_loss((image, text), told, (joined, other), logits, labels, codes, codes[:1], similarity, **given)
    assert loss.item() == pytest.approx(4 * asymmetric(0.25) + by_image + by_text, rel=1e-5)


def test_the_loss_of_dcdh_is_the_sum_of_its_parts():
    data = blobs()
    config = DcdhConfig(bits=4, width=8, gamma=2.0, label_weight=0.3, product_weight=0.7, distance_weight=0.1)
    module = Dcdh(*data.widths, config)
    trainer = DcdhTrainer(module, data, config, 0, torch.device("cpu"))
    rows, drawn = torch.arange(3), torch.arange(20)
    labels = trainer.labels[rows]
    similarity, told = balanced_similarity(labels, trainer.labels[drawn]), module.label(labels)

    def measure(outputs):
        return asymmetric_loss(outputs, trainer.codes[drawn], trainer.codes[rows], similarity, gamma=2.0)

    expected = 0.3 * measure(told)
    for network, features in ((module.image, trainer.sides[0]), (module.text, trainer.sides[1])):
        outputs = network[:-1](features[rows])
        outer = torch.stack([torch.outer(told[i], outputs[i]).flatten() for i in range(3)])
        joined = module.product(outer)
        apart = ((outputs - told) ** 2).sum(1).mean()
        expected += measure(outputs)
        expected += 0.7 * (measure(joined) + focal_loss(module.classifier(joined), labels) + 0.1 * apart)
    assert trainer.compute_loss(rows, drawn).item() == pytest.approx(expected.item(), rel=1e-5)


# --- GCH


def test_the_losses_of_gch_by_hand():
    hashed, shared = tensor([[1.0, 1.0], [-1.0, 1.0]]), torch.eye(2)
    # Θ is 1 on the diagonal and 0 off it.
    likelihood = (2 * (softplus(1.0) - 1) + 2 * math.log(2)) / 4
    assert likelihood_loss(hashed, hashed, shared).item() == pytest.approx(likelihood)
    logits, labels = tensor([[0.0], [0.0]]), tensor([[1.0], [0.0]])
    assert teacher_loss(hashed, logits, labels, shared).item() == pytest.approx(likelihood + 0.25)
    assert graph_code_loss(hashed, logits, labels, shared).item() == pytest.approx(likelihood + math.log(2))
    codes = tensor([[1.0, 1.0], [1.0, 1.0]])
    assert student_loss(hashed, logits, codes, labels).item() == pytest.approx(4 / 4 + 0.25)
    assert beacon_loss(hashed, torch.zeros(2, 2), codes).item() == pytest.approx(1 + 4 / 4)


def test_the_affinity_of_gch_by_hand():
    labels = tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    # A = [[2, 1], [1, 1]], with sums 3 and 2; the third has no label.
    expected = [[2 / 3, 1 / math.sqrt(6), 0], [1 / math.sqrt(6), 1 / 2, 0], [0, 0, 0]]
    assert_allclose(affinity_of(labels), expected, rtol=1e-6)


# --- all of them


@pytest.mark.parametrize("method", ["srlch", "srlch_hash", "dcdh", "gch"])
def test_hashing_methods_separate_classes(method):
    data = blobs()
    config = replace(QUICK, gch=replace(QUICK.gch, epochs=15), dcdh=replace(QUICK.dcdh, epochs=15))
    before = mean_of(measure_searches(data, fit_method("embeddings", data, config, 0), 15), NAIVE)
    fitted = fit_method(method, data, config, 0)
    assert mean_of(measure_searches(data, fitted, 15), NAIVE) > before + 0.15
    if fitted.binary:
        assert set(np.unique(fitted.embed("image", data.query.image))) == {-1.0, 1.0}
