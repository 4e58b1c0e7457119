"""Methods that are solved in one go: their objectives, one step and projection on inputs small enough to follow."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_supervised_methods import QUICK, blobs, mean_of

from xmrank.baselines.baseline_settings import CcaSettings
from xmrank.config import SupervisedConfig
from xmrank.config.supervised_methods import SOLVED, GmaConfig, JfsslConfig
from xmrank.runtime.errors import ConfigError
from xmrank.supervised.cfa import cfa_objective, solve_cfa
from xmrank.supervised.gma import class_scatters, gma_matrices, gma_objective, solve_gma
from xmrank.supervised.jfssl import graph_blocks, jfssl_objective, neighbour_weights, update_weights
from xmrank.supervised.jlslr import improve, jlslr_objective, start_latent
from xmrank.supervised.layouts import read_features
from xmrank.supervised.map_evaluation import NAIVE, TWO_STAGE, measure_searches
from xmrank.supervised.methods import fit_method
from xmrank.supervised.ml_cca import label_weights, ml_cca_objective, solve_ml_cca, weighted_covariances
from xmrank.supervised.projected_sides import LabelGroups, NormalisedSides, Projection, shared_labels

DATA = os.environ.get("XMRANK_TEST_DATA")
E = np.exp


def test_projections_take_off_the_centre_and_end_at_unit_length():
    projection = Projection(np.array([1.0, 2.0]), np.array([[3.0, 0.0], [0.0, 2.0]]))
    sides = NormalisedSides(projection.as_layer(), projection.as_layer())
    # (2 − 1) · 3 = 3 and (4 − 2) · 2 = 4, of length 5.
    assert_allclose(sides.embed("text", np.array([[2.0, 4.0]], "f4")), [[0.6, 0.8]], rtol=1e-6)


def test_labels_are_shared_and_grouped():
    labels = np.array([[1, 0], [1, 1], [0, 0], [1, 0]], bool)
    assert shared_labels(labels).tolist() == [[1, 0], [0.5, 0.5], [0, 0], [1, 0]]
    groups = LabelGroups.of(labels)
    assert groups.rows.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert groups.counts.tolist() == [1, 2, 1]
    assert groups.sum_items(np.array([[1.0], [2.0], [4.0], [8.0]])).tolist() == [[4.0], [9.0], [2.0]]


# --- CFA


def test_cfa_by_hand():
    image, text = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[0.0, 2.0], [0.0, -2.0]])
    # XᵀY = [[0, 4], [0, 0]]: the image's first and the text's second direction, with one sign.
    one, other = solve_cfa(image, text, 1)
    assert_allclose(np.abs(one[:, 0]), [1, 0], atol=1e-12)
    assert_allclose(np.abs(other[:, 0]), [0, 1], atol=1e-12)
    assert one[0, 0] * other[1, 0] > 0
    assert cfa_objective(image, text, one, other) == pytest.approx((1 - 2) ** 2 + (-1 + 2) ** 2)
    assert cfa_objective(image, text, one, -other) == pytest.approx(2 * 3**2)


def test_cfas_solution_is_the_best_of_many_orthonormal_ones():
    generator = np.random.default_rng(0)
    image, text = generator.normal(size=(30, 4)), generator.normal(size=(30, 4))
    best = cfa_objective(image, text, *solve_cfa(image, text, 4))
    for _ in range(20):
        one, other = (np.linalg.qr(generator.normal(size=(4, 4)))[0] for _ in range(2))
        assert cfa_objective(image, text, one, other) >= best - 1e-9


# --- ml-CCA


def test_the_weights_of_ml_cca_fall_with_the_distance_of_labels():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    assert_allclose(label_weights(labels, labels, 2.0)[0], [1, E(-1 / 2), E(-3 / 2)])


def test_the_covariances_of_ml_cca_by_hand_and_by_all_pairs():
    image, text = np.array([[1.0], [2.0]]), np.array([[3.0], [-1.0]])
    w = E(-2.0)  # two different single labels are at squared distance 2
    actual = weighted_covariances(image, text, np.eye(2), 1.0)
    assert actual.between.item() == pytest.approx((1 * 3 + 2 * -1 + w * (1 * -1 + 2 * 3)) / 4)
    assert actual.image.item() == pytest.approx((1 + w) * (1 + 4) / 4)
    assert actual.text.item() == pytest.approx((1 + w) * (9 + 1) / 4)
    generator = np.random.default_rng(1)
    image, text, labels = generator.normal(size=(9, 3)), generator.normal(size=(9, 2)), generator.random((9, 3)) < 0.5
    weights = label_weights(labels, labels, 0.7)
    between = sum(weights[i, j] * np.outer(image[i], text[j]) for i in range(9) for j in range(9)) / 81
    texts = sum(weights[i, j] * np.outer(text[j], text[j]) for i in range(9) for j in range(9)) / 81
    actual = weighted_covariances(image, text, labels, 0.7)
    assert_allclose(actual.between, between, atol=1e-12)
    assert_allclose(actual.text, texts, atol=1e-12)


def test_ml_cca_finds_the_largest_correlations():
    generator = np.random.default_rng(2)
    image, text, labels = generator.normal(size=(40, 3)), generator.normal(size=(40, 4)), np.eye(4)[np.arange(40) % 4]
    covariances = weighted_covariances(image, text, labels, 1.0)
    one, other = solve_ml_cca(*covariances, dimensions=2, ridge=0.0)
    assert_allclose(one.T @ covariances.image @ one, np.eye(2), atol=1e-9)
    best = ml_cca_objective(*covariances, one[:, :1], other[:, :1])
    for _ in range(50):
        tried = generator.normal(size=(3, 1)), generator.normal(size=(4, 1))
        assert ml_cca_objective(*covariances, *tried) <= best + 1e-9


def test_the_objective_of_ml_cca_by_hand():
    image, text, between = np.diag([4.0, 1.0]), np.array([[9.0]]), np.array([[3.0], [-1.0]])
    directions = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 0.5]])
    # 3 / √(4 · 9) and 2 · −1 · 0.5 / √(4 · 9/4).
    assert ml_cca_objective(image, text, between, *directions) == pytest.approx(3 / 6 - 1 / 3)


def test_ml_cca_of_distant_labels_is_cca():
    """With a narrow weight and every item its own class, only pairs count."""
    generator = np.random.default_rng(3)
    image = generator.normal(size=(12, 2))
    actual = weighted_covariances(image, image, np.eye(12), 1e-3)
    assert_allclose(actual.between * 144, image.T @ image, atol=1e-9)


# --- GMA


def test_the_scatters_of_classes_by_hand():
    rows, labels = np.array([[1.0], [3.0], [-4.0]]), np.array([[1, 0], [1, 0], [0, 1]])
    scatters = class_scatters(rows, labels)
    assert scatters.means.tolist() == [[2.0], [-4.0]]
    assert scatters.between.item() == pytest.approx(2 * 2**2 + 1 * 4**2)
    assert scatters.within.item() == pytest.approx((1 - 2) ** 2 + (3 - 2) ** 2)


def test_the_matrices_of_gma_by_hand():
    image, text, labels = np.array([[1.0], [3.0], [-4.0]]), np.array([[2.0], [0.0], [-2.0]]), np.eye(2)[[0, 0, 1]]
    upper, lower = gma_matrices(image, text, labels, alignment=0.5, text_weight=2.0)
    across = 0.5 * (2 * 1 + -4 * -2)  # class means 2, −4 and 1, −2
    assert_allclose(upper, [[24, across], [across, 2 * (2 * 1 + 4)]])
    assert_allclose(lower, [[2, 0], [0, 2]])  # γ = 2 / 2, and the texts' scatter within is 2
    paired, _ = gma_matrices(image, text, labels, alignment=0.5, align_pairs=True)
    assert paired[0, 1] == pytest.approx(0.5 * (1 * 2 + 3 * 0 + -4 * -2))
    # One direction (1, 2): 24 + 2 · 2 · 5 + 4 · 12 over 2 + 4 · 2.
    assert gma_objective(upper, lower, np.array([[1.0], [2.0]])) == pytest.approx((24 + 20 + 48) / (2 + 8))


def test_gma_solves_its_eigenproblem():
    generator = np.random.default_rng(4)
    image, text, labels = generator.normal(size=(40, 3)), generator.normal(size=(40, 3)), np.eye(3)[np.arange(40) % 3]
    upper, lower = gma_matrices(image, text, labels, alignment=3.0, ridge=1e-3)
    weights = solve_gma(upper, lower, 2)
    assert_allclose(weights.T @ lower @ weights, np.eye(2), atol=1e-9)
    values = np.sort(np.linalg.eigvals(np.linalg.solve(lower, upper)).real)[::-1]
    assert gma_objective(upper, lower, weights) == pytest.approx(values[:2].sum())
    assert gma_objective(upper, lower, generator.normal(size=(6, 2))) < values[:2].sum()


# --- JFSSL

LINE = {"nearest": 1, "bandwidth": 1.0, "within": 0.5}


def laplacian_of(image, text, labels, *, nearest, bandwidth, within):
    """D − W of all images and texts, as the paper has it."""
    joined = (labels @ labels.T > 0).astype(float)
    own = [within * neighbour_weights(rows, nearest, bandwidth).toarray() for rows in (image, text)]
    whole = np.block([[own[0], joined], [joined, own[1]]])
    return np.diag(whole.sum(1)) - whole


def test_the_graph_of_jfssl_by_hand():
    rows = np.array([[0.0], [1.0], [4.0]])
    # 1 is the nearest of 0 and of 4, 0 that of 1; edges go both ways.
    weights = neighbour_weights(rows, 1, 1.0).toarray()
    assert_allclose(weights, [[0, E(-0.5), 0], [E(-0.5), 0, E(-4.5)], [0, E(-4.5), 0]])


def test_the_blocks_of_jfssl_are_those_of_the_whole_laplacian():
    generator = np.random.default_rng(5)
    image, text = generator.normal(size=(8, 2)), generator.normal(size=(8, 3))
    labels = (generator.random((8, 3)) < 0.5).astype(float)
    laplacian = laplacian_of(image, text, labels, **LINE)
    blocks = graph_blocks(image, text, labels, **LINE)
    assert_allclose(blocks.image, image.T @ laplacian[:8, :8] @ image, atol=1e-9)
    assert_allclose(blocks.text, text.T @ laplacian[8:, 8:] @ text, atol=1e-9)
    assert_allclose(blocks.across, image.T @ laplacian[:8, 8:] @ text, atol=1e-9)


def test_the_objective_of_jfssl_and_one_step_by_hand():
    image, text, labels = np.array([[1.0], [2.0]]), np.array([[3.0], [1.0]]), np.array([[1.0], [0.0]])
    blocks = graph_blocks(image, text, np.eye(2), **LINE)
    # Within: both are nearest to each other. Across: each pair has its own label, so that every degree is 1 + w.
    i, t = 0.5 * E(-0.5), 0.5 * E(-2.0)
    assert blocks.image.item() == pytest.approx((1 + i) * 5 - 2 * i * 2)
    assert blocks.text.item() == pytest.approx((1 + t) * 10 - 2 * t * 3)
    assert blocks.across.item() == pytest.approx(-(1 * 3 + 2 * 1))
    u, v = 0.5, 0.25
    fit = (0.5 - 1) ** 2 + 1**2 + (0.75 - 1) ** 2 + 0.25**2
    graph = u * u * blocks.image.item() + v * v * blocks.text.item() + 2 * u * v * -5
    laplacian = [[1 + i, -i, -1, 0], [-i, 1 + i, 0, -1], [-1, 0, 1 + t, -t], [0, -1, -t, 1 + t]]
    weights = np.array([[u]]), np.array([[v]])
    actual = jfssl_objective(image, text, labels, *weights, np.array(laplacian), sparsity=2.0, graph=0.25)
    assert actual == pytest.approx(fit + 2 * (u + v) + 0.25 * graph)
    step = update_weights(image, labels, np.array([[u]]), blocks.image, blocks.across * v, sparsity=2.0, graph=0.25)
    assert step.item() == pytest.approx((1 + 0.25 * 5 * v) / (5 + 2 / (2 * u) + 0.25 * blocks.image.item()), rel=1e-6)


def test_the_rounds_of_jfssl_lower_its_objective():
    data, weights = blobs(), {"sparsity": 1.0, "graph": 1e-3}
    edges = {"nearest": 10, "bandwidth": 0.5, "within": 1.0}
    image, text = data.train.image.astype(float), data.train.text.astype(float)
    labels = data.train.labels.astype(float)
    blocks = graph_blocks(image, text, labels, **edges)
    laplacian = laplacian_of(image, text, labels, **edges)
    one, other = np.eye(12, 4), np.eye(12, 4)
    values = []
    for _ in range(6):
        one = update_weights(image, labels, one, blocks.image, blocks.across @ other, **weights)
        other = update_weights(text, labels, other, blocks.text, blocks.across.T @ one, **weights)
        values.append(jfssl_objective(image, text, labels, one, other, laplacian, **weights))
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(values))


# --- JLSLR


def test_the_objective_of_jlslr_and_one_round_by_hand():
    weights = {"label_weight": 2.0, "ridge": 0.5}
    image, text, labels = np.array([[1.0], [-1.0]]), np.array([[2.0], [-2.0]]), np.array([[1.0], [0.0]])
    latent = np.array([[0.5], [0.0]])
    state = np.array([[1.0]]), np.array([[0.25]]), np.array([[2.0]]), latent
    fit = (1 - 0.5) ** 2 + (-1 - 0) ** 2 + (0.5 - 0.5) ** 2 + (-0.5 - 0) ** 2
    expected = fit + 2 * ((1 - 1) ** 2 + 0) + 0.5 * (1 + 0.25**2 + 4)
    assert jlslr_objective(image, text, labels, *state, **weights) == pytest.approx(expected)
    after = improve(image, text, labels, latent, **weights)
    p, r, q = 0.5 / (2 + 0.5), 1.0 / (8 + 0.5), 0.5 / (0.25 + 0.5 / 2)
    assert [after.image.item(), after.text.item(), after.decoder.item()] == pytest.approx([p, r, q])
    first = (p + 2 * r + 2 * q) / (2 + 2 * q * q)
    second = (-p - 2 * r) / (2 + 2 * q * q)
    assert after.latent.ravel().tolist() == pytest.approx([first, second])


def test_no_round_of_jlslr_raises_its_objective():
    data, weights = blobs(several=True), {"label_weight": 1.0, "ridge": 0.1}
    image, text = data.train.image.astype(float), data.train.text.astype(float)
    labels = data.train.labels.astype(float)
    latent, values = start_latent(labels, 3), []
    assert latent.shape == (200, 3)
    for _ in range(6):
        state = improve(image, text, labels, latent, **weights)
        latent = state.latent
        own = state.image, state.text, state.decoder, latent
        values.append(jlslr_objective(image, text, labels, *own, **weights))
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(values))


# --- all of them


@pytest.mark.parametrize("method", ["ml_cca", "gma", "jfssl", "jlslr"])
def test_solved_methods_separate_classes(method):
    data = blobs()
    before = mean_of(measure_searches(data, fit_method("embeddings", data, QUICK, 0), 15), NAIVE)
    after = measure_searches(data, fit_method(method, data, QUICK, 0), 15)
    assert mean_of(after, NAIVE) > before + 0.15
    assert mean_of(after, TWO_STAGE) > 0.8


@pytest.mark.parametrize("method", ["cca", "kernel_cca", "cfa"])
def test_methods_without_labels_bring_pairs_together(method):
    data = blobs(noise=0.2)
    after = measure_searches(data, fit_method(method, data, QUICK, 0), 15)
    assert mean_of(after, NAIVE) > 0.6


@pytest.mark.skipif(DATA is None, reason="XMRANK_TEST_DATA does not name the folder of real data")
@pytest.mark.parametrize(
    ("dimensions", "figures"), [(3, (0.242, 0.195)), (5, (0.245, 0.193)), (7, (0.246, 0.201)), (9, (0.242, 0.197))]
)
def test_cca_gives_its_documented_figures_on_wikipedia(dimensions, figures):
    data = read_features("wikipedia", "", Path(DATA) / "wikipedia", 0, unit_length=False)
    config = SupervisedConfig(fit_validation=True, cca=CcaSettings(dimensions=dimensions))
    searches = measure_searches(data, fit_method("cca", data, config, 0), 50)
    actual = [np.nanmean(entry.precision) for entry in searches if entry.search == NAIVE]
    assert [round(value, 3) for value in actual] == list(figures)


def test_fit_validation_fits_the_validation_items_too_and_leaves_stage_1_as_it_is():
    data = blobs()
    whole = replace(QUICK, fit_validation=True)
    for method in sorted(SOLVED - {"embeddings"}):
        one, other = fit_method(method, data, QUICK, 0), fit_method(method, data, whole, 0)
        assert not np.allclose(one.embed("image", data.query.image), other.embed("image", data.query.image))
        assert len(other.train_labels) == 200
        assert {entry.search for entry in measure_searches(data, other, 15)} >= {NAIVE, TWO_STAGE}
    trained = [fit_method("lcm", data, given, 0).embed("image", data.query.image) for given in (QUICK, whole)]
    np.testing.assert_array_equal(*trained)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (GmaConfig, {"ridge": -1.0}, "--gma.ridge -1.0: expected at least 0"),
        (JfsslConfig, {"nearest": 0}, "--jfssl.nearest 0: expected at least 1"),
        (JfsslConfig, {"bandwidth": 0.0}, "--jfssl.bandwidth 0.0: expected more than 0"),
    ],
)
def test_wrong_settings_of_methods_name_their_flag(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        kind(**values)
