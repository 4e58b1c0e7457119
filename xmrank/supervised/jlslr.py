"""JLSLR: a latent space is learned between the features and the labels, instead of the labels' own space."""

from dataclasses import dataclass

import numpy as np
import torch

from xmrank.config.supervised import SupervisedConfig
from xmrank.config.supervised_methods import JlslrConfig
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
    image: np.ndarray, text: np.ndarray, labels: np.ndarray, state: LatentRegression, config: JlslrConfig
) -> float:
    """What is minimised.

    Definition: Σₘ ‖XₘPₘ − S‖²_F + α ‖S Q − Y‖²_F + β (Σₘ ‖Pₘ‖²_F + ‖Q‖²_F).

    Args:
        image, text: centred features, [items, d1] and [items, d2].
        labels: Y, 0 or 1, [items, classes].
        state: P, Q and S.
        config: α (label_weight) and β (ridge).

    Source: after Wu, Lin and Zha, "Joint latent subspace learning and regression for cross-modal retrieval", SIGIR
        2017: a shared space is learned together with the regressions on it. The weights and the norms are our reading.
    """
    fit = sum(np.square(rows @ p - state.latent).sum() for rows, p in ((image, state.image), (text, state.text)))
    labelled = np.square(state.latent @ state.decoder - labels).sum()
    norms = sum(np.square(weights).sum() for weights in (state.image, state.text, state.decoder))
    return float(fit + config.label_weight * labelled + config.ridge * norms)


def start_latent(labels: np.ndarray, dimensions: int) -> np.ndarray:
    """S before the first round: the labels' principal directions, [items, min(d, classes)]."""
    left, values, _ = np.linalg.svd(labels, full_matrices=False)
    return np.asarray((left * values)[:, :dimensions])


def improve(
    image: np.ndarray, text: np.ndarray, labels: np.ndarray, latent: np.ndarray, config: JlslrConfig
) -> LatentRegression:
    """One round: P and Q by ridge regression on S, then S = (Σₘ XₘPₘ + αYQᵀ)(2I + αQQᵀ)⁻¹.

    No step raises the objective, because each is its minimum over one group of variables.
    """
    own = [solve_ridge(rows, latent, config.ridge) for rows in (image, text)]
    # α‖SQ − Y‖² + β‖Q‖² is a ridge regression with β/α.
    decoder = solve_ridge(latent, labels, config.ridge / max(config.label_weight, 1e-12))
    weighted = image @ own[0] + text @ own[1] + config.label_weight * labels @ decoder.T
    square = 2 * np.eye(len(decoder)) + config.label_weight * decoder @ decoder.T
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
    state = improve(image, text, labels, start_latent(labels, own.dimensions), own)
    for _ in range(own.rounds - 1):
        state = improve(image, text, labels, state.latent, own)
    return project_linearly(data, Projection(image_mean, state.image), Projection(text_mean, state.text))
