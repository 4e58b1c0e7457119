"""Cross-modal factor analysis: orthonormal projections that bring pairs together. It sees no label."""

import numpy as np
import torch

from xmrank.config.supervised import SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod
from xmrank.supervised.projected_sides import Projection, centre_rows, project_linearly
from xmrank.train.fit_loop import ReportEpoch


def cfa_objective(image: np.ndarray, text: np.ndarray, image_weights: np.ndarray, text_weights: np.ndarray) -> float:
    """What CFA minimises under AᵀA = BᵀB = I.

    Definition: ‖X A − Y B‖²_F.

    Args:
        image, text: centred features of pairs, [pairs, d1] and [pairs, d2].
        image_weights, text_weights: A and B, [d1, d] and [d2, d].

    Source: Li, Dimitrova, Li and Sethi, "Multimedia content processing through cross-modal association", ACM Multimedia
        2003, equation 5.
    """
    return float(np.square(image @ image_weights - text @ text_weights).sum())


def solve_cfa(image: np.ndarray, text: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """A and B: the singular vectors of XᵀY with the largest singular values, [d1, d] and [d2, d].

    ‖XA − YB‖² = ‖XA‖² + ‖YB‖² − 2 tr(AᵀXᵀYB), and with all dimensions the first two do not depend on A and B.

    Args:
        image, text: centred features of pairs.
        dimensions: d; no more than the shorter features have.

    Source: as for ``cfa_objective``.
    """
    left, _, right = np.linalg.svd(image.T @ text, full_matrices=False)
    return left[:, :dimensions], right[:dimensions].T


def fit_cfa(
    data: LabelledSet, config: SupervisedConfig, _seed: int, _device: torch.device, _report: ReportEpoch
) -> FittedMethod:
    """CFA of centred features."""
    (image, image_mean), (text, text_mean) = centre_rows(data.train.image), centre_rows(data.train.text)
    image_weights, text_weights = solve_cfa(image, text, config.cfa.dimensions)
    return project_linearly(data, Projection(image_mean, image_weights), Projection(text_mean, text_weights))
