"""The baselines that are solved: equal to cca-zoo, to reference values, and to a plain singular value decomposition."""

import math
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial.distance
from cca_zoo.linear import CCA, RidgeCCA
from cca_zoo.nonparametric import KCCA

from xmrank.baselines.baseline_settings import CcaSettings, CosineSettings, KernelSettings, RegularisedSettings
from xmrank.baselines.closed import (
    cca_objective,
    fit_cca,
    fit_cosine,
    fit_kernel_cca,
    fit_regularised_cca,
    kernel_cca_objective,
    linear_cca,
)
from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.towers import load_towers, save_towers
from xmrank.runtime.errors import DataError

REFERENCE = os.environ.get("XMRANK_REFERENCE")
FOLDER = Path(REFERENCE) if REFERENCE and Path(REFERENCE).is_dir() else None
reference = pytest.mark.skipif(FOLDER is None, reason="XMRANK_REFERENCE names no folder of reference values")


@lru_cache
def load():
    with np.load(FOLDER / "cca_zoo_linear_kernel.npz") as arrays:
        return dict(arrays)


def correlations(first, second):
    """Of column with column."""
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def same_up_to_signs(actual, expected, **tolerance):
    """Directions have no sign, but one for both sides."""
    signs = np.sign((actual[0] * expected[0]).sum(0))
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours * signs, theirs, **tolerance)


@pytest.fixture
def pairs():
    """40 images with one to three captions that are about them, 7 and 5 features of very unlike size."""
    generator = np.random.default_rng(0)
    owner = np.repeat(np.arange(40), generator.integers(1, 4, 40))
    shared = generator.normal(size=(40, 3))
    image = (shared @ generator.normal(size=(3, 7)) + generator.normal(size=(40, 7))) * 10.0 ** np.arange(-3, 4)
    text = shared[owner] @ generator.normal(size=(3, 5)) + generator.normal(size=(len(owner), 5))
    return FeaturePairs(image.astype(np.float32), text.astype(np.float32), owner, unit(text))


def standard(rows):
    return (rows - rows.mean(0)) / rows.std(0)


def both(towers, pairs):
    return towers.project("image", pairs.image), towers.project("text", pairs.text)


@reference
@pytest.mark.parametrize("case", range(4))
def test_cca_by_svd_equals_reference_values(case):
    arrays = load()
    first, second = arrays[f"case{case}.X1"], arrays[f"case{case}.X2"]
    one, two, actual = linear_cca(first, second, 0.0, int(arrays[f"case{case}.k"]))
    expected = arrays[f"case{case}.cca.corr"]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    projected = (first - first.mean(0)) @ one, (second - second.mean(0)) @ two
    np.testing.assert_allclose(correlations(*projected), expected, rtol=1e-6)
    theirs = [arrays[f"case{case}.cca.z{side}"] for side in "12"]
    scaled = [z / z.std(0) for z in projected]
    same_up_to_signs(scaled, [(z - z.mean(0)) / z.std(0) for z in theirs], rtol=1e-4, atol=1e-6)


def test_cca_is_that_of_cca_zoo_and_of_a_plain_svd(pairs):
    actual = both(fit_cca(pairs, CcaSettings(dimensions=3)), pairs)
    views = pairs.image[pairs.owner].astype(float), pairs.text.astype(float)
    model = CCA(3).fit(views)
    theirs = model.transform(views)
    same_up_to_signs((actual[0][pairs.owner], actual[1]), [unit(z) for z in theirs], rtol=1e-3, atol=1e-4)
    # The plain way: whiten both sides, and take the singular value decomposition of what lies between them.
    left, right = (np.linalg.svd(view - view.mean(0), full_matrices=False)[0] for view in views)
    u, _, v = np.linalg.svd(left.T @ right)
    plain = unit(left @ u[:, :3]), unit(right @ v[:3].T)
    same_up_to_signs((actual[0][pairs.owner], actual[1]), plain, rtol=1e-3, atol=1e-4)


def test_a_side_of_lower_rank_leaves_fewer_dimensions(pairs):
    """Shares of topics add up to 1: ten of them have rank nine."""
    shares = np.concatenate([pairs.text, 1 - pairs.text.sum(1, keepdims=True)], axis=1)
    assert both(fit_cca(replace(pairs, text=shares), CcaSettings()), pairs=replace(pairs, text=shares))[1].shape[1] == 5


def test_regularised_cca_is_that_of_cca_zoo_on_standardised_sides(pairs):
    actual = both(fit_regularised_cca(pairs, RegularisedSettings(dimensions=3, shrinkage=0.3)), pairs)
    views = standard(pairs.image.astype(float))[pairs.owner], standard(pairs.text.astype(float))
    theirs = RidgeCCA(3, shrinkage=0.3).fit(views).transform(views)
    same_up_to_signs((actual[0][pairs.owner], actual[1]), [unit(z) for z in theirs], rtol=1e-4, atol=1e-5)
    plain = both(fit_cca(pairs, CcaSettings(dimensions=3)), pairs)
    assert np.abs(np.abs(actual[1]) - np.abs(plain[1])).max() > 0.01


def test_no_more_dimensions_than_the_shorter_side(pairs):
    assert both(fit_cca(pairs, CcaSettings(dimensions=128)), pairs)[0].shape == (40, 5)


def test_kernel_cca_is_that_of_cca_zoo_also_for_new_items(pairs):
    settings = KernelSettings(dimensions=3, pairs=1000, width=0.5, shrinkage=0.2)
    towers = fit_kernel_cca(pairs, settings)
    views = standard(pairs.image.astype(float))[pairs.owner], standard(pairs.text.astype(float))
    anchors = towers.image[1].anchors.numpy(), towers.text[1].anchors.numpy()
    assert len(anchors[0]) == len(anchors[1]) == len(pairs.owner)
    gammas = [0.5 / (2 * view.var(0).sum()) for view in anchors]
    model = KCCA(3, shrinkage=0.2, kernel="rbf", gamma=gammas, center=False).fit(anchors)
    generator = np.random.default_rng(1)
    new = [pairs.image[generator.permutation(40)], pairs.text[generator.permutation(len(pairs.text))]]
    expected_queries = [
        (rows - side.mean(0)) / side.std(0) for rows, side in zip(new, (pairs.image, pairs.text), strict=True)
    ]
    theirs = [
        unit(model._transform_view(number, np.asarray(rows, float))) for number, rows in enumerate(expected_queries)
    ]
    actual = [towers.project(side, rows) for side, rows in zip(("image", "text"), new, strict=True)]
    for ours, expected in zip(actual, theirs, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
    assert views[0].shape[0] == len(pairs.owner)


def test_kernel_cca_draws_pairs_of_different_images_first(pairs):
    towers = fit_kernel_cca(pairs, KernelSettings(dimensions=3, pairs=40))
    anchors = towers.image[1].anchors.numpy()
    assert len(np.unique(anchors.round(6), axis=0)) == 40


def test_the_objective_of_cca_by_hand():
    image, text = np.array([[1.0], [2.0], [6.0]]), np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 4.0]])
    # Less their means: −2, −1, 3 | −1, 1, 0 and −1, −1, 2; the image's second direction is negative.
    first, second = (2 - 1) / math.sqrt(14 * 2), (2 + 1 + 6) / math.sqrt(14 * 6)
    actual = cca_objective(image, text, np.array([[5.0, -1.0]]), np.array([[1.0, 0.0], [0.0, 3.0]]))
    assert actual == pytest.approx(first - second)


def test_the_solution_of_cca_is_the_best_and_its_objective_the_sum_of_correlations():
    generator = np.random.default_rng(1)
    image, text = generator.normal(size=(30, 3)), generator.normal(size=(30, 4))
    one, other, correlated = linear_cca(image, text, 0.0, 2)
    assert cca_objective(image, text, one, other) == pytest.approx(correlated.sum())
    for _ in range(50):
        tried = generator.normal(size=(3, 1)), generator.normal(size=(4, 1))
        assert cca_objective(image, text, *tried) <= correlated[0] + 1e-9


def test_the_objective_of_kernel_cca_by_hand():
    # Linear kernels of centred features −1, 1 and −2, 2.
    image, text = np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([[4.0, -4.0], [-4.0, 4.0]])
    alpha, beta = np.array([[1.0], [0.0]]), np.array([[0.0], [0.5]])
    # Kα = (1, −1), Kβ = (−2, 2), n − 1 = 1; αᵀKα = 1, βᵀKβ = 1.
    expected = -4 / math.sqrt((0.8 * 2 + 0.2 * 1) * (0.8 * 8 + 0.2 * 1))
    assert kernel_cca_objective(image, text, alpha, beta, shrinkage=0.2) == pytest.approx(expected)
    assert kernel_cca_objective(image, text, alpha, beta, shrinkage=0.0) == pytest.approx(-1)  # a correlation


def test_the_solution_of_kernel_cca_is_the_best_of_many():
    generator = np.random.default_rng(2)
    views = [generator.normal(size=(20, 2)) for _ in range(2)]
    centre = np.eye(20) - 1 / 20
    kernels = [centre @ np.exp(-0.5 * scipy.spatial.distance.cdist(v, v, "sqeuclidean")) @ centre for v in views]
    model = KCCA(1, shrinkage=0.3, kernel="rbf", gamma=0.5, center=False).fit(views)
    best = kernel_cca_objective(*kernels, *model.weights_, shrinkage=0.3)
    for _ in range(50):
        tried = generator.normal(size=(2, 20, 1))
        assert kernel_cca_objective(*kernels, *tried, shrinkage=0.3) < best
        # Small steps to both sides: at a maximum the objective falls either way.
        for step in (1e-3, -1e-3):
            near = [w + step * np.linalg.norm(w) * change for w, change in zip(model.weights_, tried, strict=True)]
            assert kernel_cca_objective(*kernels, *near, shrinkage=0.3) < best


def test_cosine_changes_nothing(pairs):
    towers = fit_cosine(pairs, CosineSettings())
    np.testing.assert_allclose(towers.project("text", pairs.text), unit(pairs.text.astype(float)), rtol=1e-6)


@pytest.mark.parametrize(
    "fit", [lambda p: fit_cca(p, CcaSettings(3)), lambda p: fit_kernel_cca(p, KernelSettings(3, 30))]
)
def test_towers_come_back_from_their_file(pairs, tmp_path, fit):
    towers = fit(pairs)
    save_towers(tmp_path, towers, {"method": "x"})
    loaded, about = load_towers(tmp_path)
    assert about["method"] == "x"
    for ours, theirs in zip(both(loaded, pairs), both(towers, pairs), strict=True):
        assert (ours == theirs).all()


def test_a_file_that_is_no_baseline_is_named(pairs, tmp_path):
    with pytest.raises(DataError, match="not a baseline of this version"):
        load_towers(tmp_path)
    save_towers(tmp_path, fit_cca(pairs, CcaSettings(3)), {})
    about = (tmp_path / "baseline.json").read_text()
    for old, new in (('"float64"', '"x"'), ('"in_features": ', '"in_features": 2147483648')):
        assert old in about
        (tmp_path / "baseline.json").write_text(about.replace(old, new))
        with pytest.raises(DataError, match="not a baseline of this version"):
            load_towers(tmp_path)
    (tmp_path / "baseline.json").write_text(about)
    (tmp_path / "towers.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="not a baseline of this version"):
        load_towers(tmp_path)


def test_pairs_without_a_spread_do_not_divide_by_it(pairs):
    flat = replace(pairs, image=np.concatenate([pairs.image, np.ones((40, 1), np.float32)], axis=1))
    assert np.isfinite(both(fit_regularised_cca(flat, RegularisedSettings(3)), flat)[0]).all()
