"""Corr-AE: an autoencoder for each modality whose hidden codes of a pair are alike. It sees no label."""

from functools import partial

import torch
from torch import Tensor, nn

from xmrank.config.supervised import SupervisedConfig
from xmrank.config.supervised_methods import CorrAeConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.lcm import squared_distance
from xmrank.supervised.method_training import FittedMethod, TwoSides, UnitLength, fit_pairs
from xmrank.train.fit_loop import ReportEpoch


def corr_ae_loss(
    image: Tensor,
    text: Tensor,
    image_rebuilt: Tensor,
    text_rebuilt: Tensor,
    image_code: Tensor,
    text_code: Tensor,
    *,
    alpha: float = 0.8,
) -> Tensor:
    """The loss of a batch of pairs.

    Definition: (1 − α)(‖x − x̂‖² + ‖y − ŷ‖²) + α ‖f(x) − g(y)‖², each a mean over pairs.

    Args:
        image, text: inputs, [pairs, d1] and [pairs, d2].
        image_rebuilt, text_rebuilt: what the decoders make of the codes, likewise.
        image_code, text_code: f and g, [pairs, d] each.
        alpha: weight of the distance of codes, from 0 to 1.

    Returns:
        A scalar.

    Source: Feng, Wang and Li, "Cross-modal retrieval with correspondence autoencoder", ACM Multimedia 2014, equations
        3 and 4.
    """
    rebuilt = squared_distance(image_rebuilt, image) + squared_distance(text_rebuilt, text)
    return (1 - alpha) * rebuilt + alpha * squared_distance(image_code, text_code)


class CorrAe(TwoSides):
    """Linear and sigmoid, twice, for each modality; decoders of the same sizes. The codes end at unit length."""

    image: nn.Sequential
    text: nn.Sequential

    def __init__(self, image: int, text: int, config: CorrAeConfig) -> None:
        super().__init__()
        width, size = config.width, config.dimensions
        self.image, self.text = (
            nn.Sequential(nn.Linear(d, width), nn.Sigmoid(), nn.Linear(width, size), nn.Sigmoid(), UnitLength())
            for d in (image, text)
        )
        self.image_decoder, self.text_decoder = (
            nn.Sequential(nn.Linear(size, width), nn.Sigmoid(), nn.Linear(width, d)) for d in (image, text)
        )

    def compute_loss(self, image: Tensor, text: Tensor, _labels: Tensor, *, alpha: float) -> Tensor:
        """The loss of pairs of features, on the codes before they get unit length."""
        one, other = self.image[:-1](image), self.text[:-1](text)
        return corr_ae_loss(image, text, self.image_decoder(one), self.text_decoder(other), one, other, alpha=alpha)


def fit_corr_ae(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """Corr-AE without the authors' pre-training by Boltzmann machines; stops on the mAP of validation by distance."""
    own = config.corr_ae
    module = CorrAe(*data.widths[:2], own).to(device)
    return fit_pairs(
        module,
        torch.optim.Adam(module.parameters(), lr=own.learning_rate, fused=True),
        partial(module.compute_loss, alpha=own.alpha),
        data,
        batch_size=own.batch_size,
        epochs=own.epochs,
        patience=config.patience,
        report=report,
        seed=seed,
    )
