"""CLIP4CMR: a small network on the features of each modality, and a prototype for each class (PAN)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.config.supervised import Clip4cmrConfig, SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, TwoSides, UnitLength, fit_pairs
from xmrank.supervised.pan import pan_loss
from xmrank.train.fit_loop import ReportEpoch


def clip4cmr_loss(image: Tensor, text: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """The prototype loss of images plus that of texts.

    Args:
        image, text: in the common space, unit length, [pairs, d] each.
        prototypes: one a class, [classes, d]; scaled to unit length here.
        labels: 0 or 1, [pairs, classes].

    Source: Zeng and Mao, "A comprehensive empirical study of vision-language pre-trained model for supervised
        cross-modal retrieval", arXiv 2201.02772, with PAN's loss.
    """
    unit = F.normalize(prototypes, dim=1)
    return pan_loss(image, unit, labels) + pan_loss(text, unit, labels)


class Clip4cmr(TwoSides):
    """Linear, GELU, linear, dropout, unit length for each modality; prototypes of unit length."""

    def __init__(self, image: int, text: int, classes: int, config: Clip4cmrConfig) -> None:
        super().__init__()
        self.image, self.text = (
            nn.Sequential(
                nn.Linear(inputs, config.width),
                nn.GELU(),
                nn.Linear(config.width, config.dimensions),
                nn.Dropout(config.dropout),
                UnitLength(),
            )
            for inputs in (image, text)
        )
        self.prototypes = nn.Parameter(torch.randn(classes, config.dimensions))

    def compute_loss(self, image: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        """The loss of pairs of features."""
        return clip4cmr_loss(self.image(image), self.text(text), self.prototypes, labels)


def fit_clip4cmr(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """CLIP4CMR; stops on the mAP of validation by distance."""
    own = config.clip4cmr
    module = Clip4cmr(*data.widths, own).to(device)
    adam = torch.optim.Adam(module.parameters(), lr=own.learning_rate, fused=True)
    return fit_pairs(
        module,
        adam,
        module.compute_loss,
        data,
        batch_size=own.batch_size,
        epochs=own.epochs,
        patience=config.patience,
        report=report,
        seed=seed,
    )
