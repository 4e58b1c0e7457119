"""DSCMR: labels decide what is alike in the common space and are predicted from it."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.config.supervised import DscmrConfig, SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, TwoSides, UnitLength, fit_pairs
from xmrank.train.fit_loop import ReportEpoch

LEAST_LENGTHS = 1e-6
"""Of the product of two lengths that a cosine is divided by, as in the authors' code."""


def dscmr_loss(
    image: Tensor,
    text: Tensor,
    image_predictions: Tensor,
    text_predictions: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1e-3,
    beta: float = 0.1,
) -> Tensor:
    """The loss of a batch of pairs.

    Definition: Σ mean ‖p − y‖ over both modalities + α Σ mean[log(1 + e^Θ) − S Θ] over image–image, image–text and
    text–text + β mean ‖f_image − f_text‖; Θ = cos / 2, S = the number of labels that two items share.

    Args:
        image, text: in the common space, [pairs, d], any floating dtype.
        image_predictions, text_predictions: of the labels, [pairs, classes].
        labels: 0 or 1, [pairs, classes], in their dtype.
        alpha, beta: weights.

    Returns:
        A scalar. Its gradient is finite also where a prediction or a pair coincides (that of the authors' code is not).

    Source: Zhen et al., "Deep supervised cross-modal retrieval", CVPR 2019, equations 4 to 8.
    """
    in_labels = sum(torch.linalg.vector_norm(p - labels, dim=1).mean() for p in (image_predictions, text_predictions))
    shared = labels @ labels.T
    in_space = sum(_mean_likelihood(one, other, shared) for one, other in ((image, image), (image, text), (text, text)))
    return in_labels + alpha * in_space + beta * torch.linalg.vector_norm(image - text, dim=1).mean()


def _mean_likelihood(one: Tensor, other: Tensor, shared: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(one, dim=1)[:, None] * torch.linalg.vector_norm(other, dim=1)
    # Half of the cosine; the lower limit keeps the gradient finite for rows of zeros.
    theta = one @ other.T / lengths.clamp(min=LEAST_LENGTHS) / 2
    return (F.softplus(theta) - shared * theta).mean()


class Dscmr(TwoSides):
    """A layer for each modality, a layer that both share, and a linear classifier that both share.

    The common space is the shared layer's output at unit length, so that distances order as the cosines that the
    authors rank by.
    """

    image: nn.Sequential
    text: nn.Sequential

    def __init__(self, image: int, text: int, classes: int, config: DscmrConfig) -> None:
        super().__init__()
        shared = nn.Linear(config.width, config.dimensions)
        self.image, self.text = (
            nn.Sequential(nn.Linear(inputs, config.width), nn.ReLU(), shared, UnitLength()) for inputs in (image, text)
        )
        self.classifier = nn.Linear(config.dimensions, classes)

    def compute_loss(self, image: Tensor, text: Tensor, labels: Tensor, *, alpha: float, beta: float) -> Tensor:
        """The loss of pairs of features, on the common space before its vectors get unit length."""
        one, other = self.image[:-1](image), self.text[:-1](text)
        return dscmr_loss(one, other, self.classifier(one), self.classifier(other), labels, alpha=alpha, beta=beta)


def fit_dscmr(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """DSCMR; stops on the mAP of validation by distance."""
    own = config.dscmr
    module = Dscmr(*data.widths, own).to(device)
    adam = torch.optim.Adam(module.parameters(), lr=own.learning_rate, betas=(0.5, 0.999), fused=True)
    return fit_pairs(
        module,
        adam,
        partial(module.compute_loss, alpha=own.alpha, beta=own.beta),
        data,
        batch_size=own.batch_size,
        epochs=own.epochs,
        patience=config.patience,
        report=report,
        seed=seed,
    )
