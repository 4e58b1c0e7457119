"""Generalized multiview analysis in its LDA form (GMLDA): classes apart in each view, and the views alike."""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch

from xmrank.config.supervised import SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod
from xmrank.supervised.projected_sides import Projection, centre_rows, project_linearly, ridge_of, shared_labels
from xmrank.train.fit_loop import ReportEpoch


class ClassScatters(NamedTuple):
    """Scatters of one view, [d, d] each, and its class means, [classes, d]."""

    between: np.ndarray
    within: np.ndarray
    means: np.ndarray


def class_scatters(rows: np.ndarray, labels: np.ndarray) -> ClassScatters:
    """XᵀWX and Xᵀ(I − W)X with W = 1/N_c for two items of class c; an item of several labels is in each in part.

    Args:
        rows: centred features, [items, d].
        labels: 0 or 1, [items, classes]; items without a label count nowhere.
    """
    parts = shared_labels(labels)
    counts = parts.sum(axis=0)
    means = parts.T @ rows / np.maximum(counts, 1e-12)[:, None]
    between = (counts[:, None] * means).T @ means
    labelled = rows[parts.any(axis=1)]
    return ClassScatters(between, labelled.T @ labelled - between, means)


def gma_matrices(
    image: np.ndarray,
    text: np.ndarray,
    labels: np.ndarray,
    *,
    alignment: float,
    text_weight: float = 1.0,
    ridge: float = 0.0,
    align_pairs: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """A and B of the generalised eigenproblem A v = ρ B v over both views' directions, [d1 + d2, d1 + d2] each.

    Definition: A = [[S_b¹, λ Z₁ᵀZ₂], [λ Z₂ᵀZ₁, μ S_b²]], B = [[S_w¹, 0], [0, γ S_w²]], with scatters between and within
    classes, γ = tr S_w¹ / tr S_w², and Z the class means of a view (or all items, ``align_pairs``).

    Args:
        image, text: centred features, [items, d1] and [items, d2].
        labels: 0 or 1, [items, classes].
        alignment: λ.
        text_weight: μ.
        ridge: added to the scatters within classes, as a share of their mean variance.
        align_pairs: Z are the items themselves.

    Source: Sharma, Kumar, Daumé and Jacobs, "Generalized multiview analysis: a discriminative latent space", CVPR 2012,
        equations 6 to 8 and section 4.
    """
    views = [class_scatters(rows, labels) for rows in (image, text)]
    aligned = (image, text) if align_pairs else (views[0].means, views[1].means)
    across = alignment * aligned[0].T @ aligned[1]
    balance = np.trace(views[0].within) / max(np.trace(views[1].within), 1e-12)
    upper = np.block([[views[0].between, across], [across.T, text_weight * views[1].between]])
    within = [view.within + ridge_of(view.within, ridge) for view in views]
    return upper, scipy.linalg.block_diag(within[0], balance * within[1])


def gma_objective(upper: np.ndarray, lower: np.ndarray, weights: np.ndarray) -> float:
    """What GMA maximises: tr((VᵀBV)⁻¹ VᵀAV), which is Σ vᵀAv where VᵀBV = I.

    Args:
        upper, lower: A and B of ``gma_matrices``, [d1 + d2, d1 + d2] each.
        weights: V, directions of both views one above the other, [d1 + d2, d].

    Source: as for ``gma_matrices``.
    """
    return float(np.trace(np.linalg.solve(weights.T @ lower @ weights, weights.T @ upper @ weights)))


def solve_gma(upper: np.ndarray, lower: np.ndarray, dimensions: int) -> np.ndarray:
    """The directions V of the largest eigenvalues, with VᵀBV = I, [d1 + d2, d].

    Args:
        upper, lower: A and B of ``gma_matrices``; B positive definite.
        dimensions: d.

    Source: as for ``gma_matrices``.
    """
    _, vectors = scipy.linalg.eigh(upper, lower)
    return np.asarray(vectors[:, ::-1][:, :dimensions])


def fit_gma(
    data: LabelledSet, config: SupervisedConfig, _seed: int, _device: torch.device, _report: ReportEpoch
) -> FittedMethod:
    """GMLDA of centred features."""
    (image, image_mean), (text, text_mean) = centre_rows(data.train.image), centre_rows(data.train.text)
    # Scatters between classes have no more directions than that.
    dimensions = min(config.gma.dimensions, *data.widths[:2], max(1, data.widths[2] - 1))
    own = config.gma
    upper, lower = gma_matrices(
        image,
        text,
        data.train.labels,
        alignment=own.alignment,
        text_weight=own.text_weight,
        ridge=own.ridge,
        align_pairs=own.align_pairs,
    )
    weights = solve_gma(upper, lower, dimensions)
    split = image.shape[1]
    return project_linearly(data, Projection(image_mean, weights[:split]), Projection(text_mean, weights[split:]))
