"""JLSLR: a latent space is learned between the features and the labels, instead of the labels' own space."""

from dataclasses import dataclass

import numpy as np
import torch

from xmrank.config.supervised import SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod
from xmrank.supervised.projected_sides import Projection, centre_rows, project_linearly
from xmrank.train.fit_loop import ReportEpoch


@dataclass(frozen=True)
class LatentRegression:
    """A state of the alternating solution.

    Attributes:
        image, text: projections P of features into the latent space, [d1, d] and [d2, d].
        decoder: Q, from the latent space to labels, [d, classes].
        latent: S of the training items, [items, d].
    """

    image: np.ndarray
    text: np.ndarray
    decoder: np.ndarray
    latent: np.ndarray


def jlslr_objective(
    image: np.ndarray,
    text: np.ndarray,
    labels: np.ndarray,
    image_weights: np.ndarray,
    text_weights: np.ndarray,
    decoder: np.ndarray,
    latent: np.ndarray,
    *,
    label_weight: float,
    ridge: float,
) -> float:
    """What is minimised.

    Definition: Σₘ ‖XₘPₘ − S‖²_F + α ‖S Q − Y‖²_F + β (Σₘ ‖Pₘ‖²_F + ‖Q‖²_F).

    Args:
        image, text: centred features, [items, d1] and [items, d2].
        labels: Y, 0 or 1, [items, classes].
        image_weights, text_weights: P, [d1, d] and [d2, d].
        decoder: Q, [d, classes].
        latent: S, [items, d].
        label_weight, ridge: α and β.

    Source: after Wu, Lin and Zha, "Joint latent subspace learning and regression for cross-modal retrieval", SIGIR
        2017: a shared space is learned together with the regressions on it. The weights and the norms are our reading.
    """
    fit = sum(np.square(rows @ p - latent).sum() for rows, p in ((image, image_weights), (text, text_weights)))
    labelled = np.square(latent @ decoder - labels).sum()
    norms = sum(np.square(weights).sum() for weights in (image_weights, text_weights, decoder))
    return float(fit + label_weight * labelled + ridge * norms)


def start_latent(labels: np.ndarray, dimensions: int) -> np.ndarray:
    """S before the first round: the labels' principal directions, [items, min(d, classes)]."""
    left, values, _ = np.linalg.svd(labels, full_matrices=False)
    return np.asarray((left * values)[:, :dimensions])


def improve(
    image: np.ndarray, text: np.ndarray, labels: np.ndarray, latent: np.ndarray, *, label_weight: float, ridge: float
) -> LatentRegression:
    """One round: P and Q by ridge regression on S, then S = (Σₘ XₘPₘ + αYQᵀ)(2I + αQQᵀ)⁻¹.

    No step raises the objective, because each is its minimum over one group of variables.

    Args:
        image, text, labels, label_weight, ridge: as for ``jlslr_objective``.
        latent: S before the round, [items, d].

    Source: our reading, as of ``jlslr_objective``.
    """
    own = [solve_ridge(rows, latent, ridge) for rows in (image, text)]
    # α‖SQ − Y‖² + β‖Q‖² is a ridge regression with β/α.
    decoder = solve_ridge(latent, labels, ridge / max(label_weight, 1e-12))
    weighted = image @ own[0] + text @ own[1] + label_weight * labels @ decoder.T
    square = 2 * np.eye(len(decoder)) + label_weight * decoder @ decoder.T
    return LatentRegression(own[0], own[1], decoder, np.linalg.solve(square, weighted.T).T)


def solve_ridge(rows: np.ndarray, targets: np.ndarray, ridge: float) -> np.ndarray:
    """(XᵀX + ridge · I)⁻¹XᵀT."""
    return np.asarray(np.linalg.solve(rows.T @ rows + ridge * np.eye(rows.shape[1]), rows.T @ targets))


def fit_jlslr(
    data: LabelledSet, config: SupervisedConfig, _seed: int, _device: torch.device, _report: ReportEpoch
) -> FittedMethod:
    """JLSLR of centred features."""
    own, labels = config.jlslr, data.train.labels.astype(np.float64)
    (image, image_mean), (text, text_mean) = centre_rows(data.train.image), centre_rows(data.train.text)
    latent = start_latent(labels, own.dimensions)
    for _ in range(own.rounds):
        state = improve(image, text, labels, latent, label_weight=own.label_weight, ridge=own.ridge)
        latent = state.latent
    return project_linearly(data, Projection(image_mean, state.image), Projection(text_mean, state.text))
