"""Multi-label CCA: CCA over all pairs of an image and a text, weighted by how alike their labels are."""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch

from xmrank.config.supervised import SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod
from xmrank.supervised.projected_sides import LabelGroups, Projection, centre_rows, project_linearly, ridge_of
from xmrank.train.fit_loop import ReportEpoch


class WeightedCovariances(NamedTuple):
    """Covariances over weighted pairs: of images [d1, d1], of texts [d2, d2], and between both [d1, d2]."""

    image: np.ndarray
    text: np.ndarray
    between: np.ndarray


def label_weights(labels: np.ndarray, others: np.ndarray, bandwidth: float) -> np.ndarray:
    """f(z_i, z_j) = exp(−‖z_i − z_j‖² / bandwidth), [items, others]."""
    squared = scipy.spatial.distance.cdist(
        np.asarray(labels, np.float64), np.asarray(others, np.float64), "sqeuclidean"
    )
    return np.exp(-squared / bandwidth)


def weighted_covariances(
    image: np.ndarray, text: np.ndarray, labels: np.ndarray, bandwidth: float
) -> WeightedCovariances:
    """The covariances of ml-CCA.

    Definition: C_xy = 1/n² ΣᵢΣⱼ f(zᵢ, zⱼ) xᵢ yⱼᵀ, C_xx = 1/n² ΣᵢΣⱼ f(zᵢ, zⱼ) xᵢ xᵢᵀ, C_yy likewise with yⱼ yⱼᵀ. The
    sums go over groups of items with equal labels, so that their cost does not grow with the square of n.

    Args:
        image, text: centred features, [items, d1] and [items, d2].
        labels: 0 or 1, [items, classes].
        bandwidth: of ``label_weights``.

    Source: Ranjan, Rasiwasia and Jawahar, "Multi-label cross-modal retrieval", ICCV 2015, equations 5 to 8.
    """
    groups, pairs = LabelGroups.of(labels), len(image) ** 2
    weights = label_weights(groups.rows, groups.rows, bandwidth)
    # f is symmetric, so that an item has the same total weight as an image and as a text.
    total = (weights @ groups.counts)[groups.group][:, None]
    between = groups.sum_items(image).T @ weights @ groups.sum_items(text)
    return WeightedCovariances((total * image).T @ image / pairs, (total * text).T @ text / pairs, between / pairs)


def ml_cca_objective(
    image: np.ndarray, text: np.ndarray, between: np.ndarray, image_weights: np.ndarray, text_weights: np.ndarray
) -> float:
    """What ml-CCA maximises: the sum over directions of aᵀC_xy b / √(aᵀC_xx a · bᵀC_yy b).

    Args:
        image, text, between: C_xx, C_yy and C_xy as of ``weighted_covariances``, [d1, d1], [d2, d2] and [d1, d2].
        image_weights, text_weights: directions a and b, [d1, d] and [d2, d].

    Source: the same, section 3: CCA's correlation with these covariances.
    """
    # Rows of d directions: each sum is one quadratic form a direction.
    across = np.einsum("id,ij,jd->d", image_weights, between, text_weights)
    variances = np.einsum("id,ij,jd->d", image_weights, image, image_weights)
    others = np.einsum("id,ij,jd->d", text_weights, text, text_weights)
    return float((across / np.sqrt(variances * others)).sum())


def solve_ml_cca(
    image: np.ndarray, text: np.ndarray, between: np.ndarray, *, dimensions: int, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """The directions of largest correlation, [d1, d] and [d2, d]: whiten both sides, then singular vectors.

    Args:
        image, text, between: as for ``ml_cca_objective``.
        dimensions: d; no more than the shorter features have.
        ridge: added to the variances, as a share of their mean.

    Source: as for ``weighted_covariances``; the eigenproblem of CCA, with its directions scaled to unit variance.
    """
    roots = [
        scipy.linalg.cholesky(covariance + ridge_of(covariance, ridge), lower=True) for covariance in (image, text)
    ]
    half = scipy.linalg.solve_triangular(roots[0], between, lower=True)
    left, _, right = np.linalg.svd(scipy.linalg.solve_triangular(roots[1], half.T, lower=True).T, full_matrices=False)
    directions = left[:, :dimensions], right[:dimensions].T
    weights = [scipy.linalg.solve_triangular(r.T, d, lower=False) for r, d in zip(roots, directions, strict=True)]
    return weights[0], weights[1]


def fit_ml_cca(
    data: LabelledSet, config: SupervisedConfig, _seed: int, _device: torch.device, _report: ReportEpoch
) -> FittedMethod:
    """ml-CCA of centred features, over all pairs."""
    own = config.ml_cca
    (image, image_mean), (text, text_mean) = centre_rows(data.train.image), centre_rows(data.train.text)
    covariances = weighted_covariances(image, text, data.train.labels, own.bandwidth)
    image_weights, text_weights = solve_ml_cca(*covariances, dimensions=own.dimensions, ridge=own.ridge)
    return project_linearly(data, Projection(image_mean, image_weights), Projection(text_mean, text_weights))
