"""Baselines that are solved and not trained: the encoder itself, CCA, regularised CCA, kernel CCA."""

import numpy as np
import scipy.linalg
import scipy.spatial.distance
import torch
from cca_zoo.linear import CCA, RidgeCCA
from cca_zoo.nonparametric import KCCA
from torch import nn

from xmrank.baselines.baseline_settings import CcaSettings, CosineSettings, KernelSettings, RegularisedSettings
from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.towers import KernelMap, ProjectionTowers, Standardise, standardise_layers

KERNEL_STREAM = 0x4E71
"""Separates the draw of kernel CCA's pairs from other draws."""


def fit_cosine(_pairs: FeaturePairs, _settings: CosineSettings) -> ProjectionTowers:
    """What the encoder embeds is in one space already."""
    return ProjectionTowers([], [])


def fit_cca(pairs: FeaturePairs, settings: CcaSettings) -> ProjectionTowers:
    """Linear canonical correlation analysis, a pair a caption; both sides standardised first.

    Source: Hotelling, "Relations between two sets of variates", Biometrika 1936; by cca-zoo.
    """
    return _fit_linear(pairs, CCA(_limit_dimensions(pairs, settings.dimensions)))


def fit_regularised_cca(pairs: FeaturePairs, settings: RegularisedSettings) -> ProjectionTowers:
    """Canonical ridge: covariances are shrunk towards the identity.

    Source: Vinod, "Canonical ridge and econometrics of joint production", Journal of Econometrics 1976; by cca-zoo.
    """
    return _fit_linear(pairs, RidgeCCA(_limit_dimensions(pairs, settings.dimensions), shrinkage=settings.shrinkage))


def _limit_dimensions(pairs: FeaturePairs, wanted: int) -> int:
    """As many as wanted, or as there are."""
    return min(wanted, pairs.image.shape[1], pairs.text.shape[1])


def _fit_linear(pairs: FeaturePairs, model: CCA | RidgeCCA) -> ProjectionTowers:
    """Towers of a linear model of cca-zoo, in float64; of fewer dimensions where a side has a lower rank."""
    sides = pairs.image, pairs.text
    firsts = [standardise_layers([], rows)[1] for rows in sides]
    views = [_standardise_rows(first, rows) for first, rows in zip(firsts, sides, strict=True)]
    # A pair a caption: an image stands once for each of its captions.
    views[0] = views[0][pairs.owner]
    model.fit(views)
    sizes = [{"in_features": len(weights), "out_features": weights.shape[1]} for weights in model.weights_]
    layers = [[("standardise", {"width": size["in_features"]}), ("linear", size)] for size in sizes]
    towers = ProjectionTowers(*layers).double()
    for tower, first, view, weights in zip((towers.image, towers.text), firsts, views, model.weights_, strict=True):
        _fill_linear(tower, first, weights, view.mean(0))
    return towers


def _standardise_rows(first: Standardise, rows: np.ndarray) -> np.ndarray:
    """Rows, standardised, float64."""
    return (rows - first.centre.double().numpy()) / first.scale.double().numpy()


def _fill_linear(tower: nn.Sequential, first: Standardise, weights: np.ndarray, centre: np.ndarray) -> None:
    """Give a tower of two layers its standardisation and (x − centre) · weights."""
    tower[0].load_state_dict(first.state_dict())
    linear = tower[1]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.array(weights.T)))
        # The mean is taken off within the layer: W(x − m) = Wx − Wm.
        linear.bias.copy_(torch.from_numpy(-centre @ weights))


def fit_kernel_cca(pairs: FeaturePairs, settings: KernelSettings) -> ProjectionTowers:
    """Kernel CCA with Gaussian kernels, on pairs drawn at random, of different images as long as there are.

    Source: Hardoon, Szedmak and Shawe-Taylor, "Canonical correlation analysis: an overview with application to learning
    methods", Neural Computation 2004; by cca-zoo.
    """
    generator = np.random.default_rng([KERNEL_STREAM])
    captions = generator.permutation(len(pairs.owner))
    # The first drawn caption of each image goes before all second ones.
    _, first = np.unique(pairs.owner[captions], return_index=True)
    others = np.setdiff1d(np.arange(len(captions)), first)
    captions = captions[np.concatenate([np.sort(first), others])][: settings.pairs]
    sides = (pairs.image, pairs.image[pairs.owner[captions]]), (pairs.text, pairs.text[captions])
    firsts = [standardise_layers([], rows)[1] for rows, _ in sides]
    views = [_standardise_rows(first, chosen) for first, (_, chosen) in zip(firsts, sides, strict=True)]
    gammas = [settings.width / (2 * view.var(0).sum()) for view in views]  # the mean squared distance
    dimensions = min(settings.dimensions, len(captions) - 1)
    model = KCCA(dimensions, shrinkage=settings.shrinkage, kernel="rbf", gamma=gammas, center=False).fit(views)
    layers = [
        [
            ("standardise", {"width": view.shape[1]}),
            ("kernel", {"anchors": len(view), "width": view.shape[1], "dimensions": dimensions, "gamma": float(gamma)}),
        ]
        for view, gamma in zip(views, gammas, strict=True)
    ]
    towers = ProjectionTowers(*layers).double()
    for number, tower in enumerate((towers.image, towers.text)):
        tower[0].load_state_dict(firsts[number].state_dict())
        _fill_kernel(tower[1], views[number], model.weights_[number], float(gammas[number]))
    return towers


def _fill_kernel(layer: nn.Module, anchors: np.ndarray, weights: np.ndarray, gamma: float) -> None:
    """Give a kernel map its anchors, weights, and the offset that centres it in the kernel's space."""
    assert isinstance(layer, KernelMap)
    layer.anchors.copy_(torch.from_numpy(anchors))
    layer.weights.copy_(torch.from_numpy(weights))
    distances = scipy.spatial.distance.cdist(anchors, anchors, "sqeuclidean")
    columns = np.exp(-gamma * distances).mean(0)
    layer.offset.copy_(torch.from_numpy((columns.mean() - columns) @ weights))


def linear_cca(
    first: np.ndarray, second: np.ndarray, ridge: float, dimensions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CCA by whitening and a singular value decomposition.

    Args:
        first, second: [pairs, d1], [pairs, d2].
        ridge: added to the variances, which are over pairs − 1.
        dimensions: how many pairs of directions.

    Returns:
        Weights [d1, dimensions] and [d2, dimensions] of the centred sides, and the correlations, [dimensions].

    Source: Hotelling, Biometrika 1936, as ``fit_cca``; of whitened sides.
    """
    centred = [np.asarray(side, np.float64) - side.mean(0, dtype=np.float64) for side in (first, second)]
    share = 1 / (len(first) - 1)
    # Ridged covariances as L·Lᵀ; solving by L whitens a side.
    roots = [
        scipy.linalg.cholesky(share * side.T @ side + ridge * np.eye(side.shape[1]), lower=True) for side in centred
    ]
    between = scipy.linalg.solve_triangular(roots[0], share * centred[0].T @ centred[1], lower=True)
    left, correlations, right = np.linalg.svd(scipy.linalg.solve_triangular(roots[1], between.T, lower=True).T)
    directions = left[:, :dimensions], right.T[:, :dimensions]
    weights = [scipy.linalg.solve_triangular(r.T, d, lower=False) for r, d in zip(roots, directions, strict=True)]
    return weights[0], weights[1], correlations[:dimensions]


def cca_objective(image: np.ndarray, text: np.ndarray, image_weights: np.ndarray, text_weights: np.ndarray) -> float:
    """What CCA maximises, for uncorrelated directions: the sum over directions of the correlation of Xa and Yb.

    Definition: Σ aᵀC_xy b / √(aᵀC_xx a · bᵀC_yy b), C the covariances.

    Args:
        image, text: features of pairs, [pairs, d1] and [pairs, d2]; centred here.
        image_weights, text_weights: directions a and b, [d1, d] and [d2, d].

    Source: Hotelling, "Relations between two sets of variates", Biometrika 1936; Hardoon, Szedmak and Shawe-Taylor,
        Neural Computation 2004, section 2.
    """
    one, other = ((side - side.mean(0)) @ w for side, w in ((image, image_weights), (text, text_weights)))
    lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    return float(((one * other).sum(axis=0) / lengths).sum())


def kernel_cca_objective(
    image_kernel: np.ndarray,
    text_kernel: np.ndarray,
    image_weights: np.ndarray,
    text_weights: np.ndarray,
    *,
    shrinkage: float = 0.1,
) -> float:
    """What kernel CCA maximises: the sum over directions of the shrunk correlation in the kernels' spaces.

    Definition: Σ αᵀK_xK_y β / (n − 1) / √(αᵀB_x α · βᵀB_y β), B = (1 − c) K² / (n − 1) + c K.

    Args:
        image_kernel, text_kernel: K of the pairs, centred in the kernels' spaces, [pairs, pairs] each.
        image_weights, text_weights: α and β, [pairs, d] each.
        shrinkage: c, from 0 (kernel CCA without a ridge) to 1 (kernel partial least squares).

    Source: Hardoon, Szedmak and Shawe-Taylor, "Canonical correlation analysis: an overview with application to learning
        methods", Neural Computation 2004, section 4; the ridge as in cca-zoo, which solves it.
    """
    share = 1 / (len(image_kernel) - 1)
    sides = (image_kernel, image_weights), (text_kernel, text_weights)
    one, other = (kernel @ weights for kernel, weights in sides)
    # αᵀK²α is the squared length of Kα.
    variances = [
        (1 - shrinkage) * share * np.square(kernel @ weights).sum(axis=0)
        + shrinkage * np.einsum("id,ij,jd->d", weights, kernel, weights)
        for kernel, weights in sides
    ]
    return float((share * (one * other).sum(axis=0) / np.sqrt(variances[0] * variances[1])).sum())
