"""CLIP4CMR: a small network on the features of each modality, and a prototype for each class (PAN)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.config.supervised import Clip4cmrConfig, SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, TwoSides, UnitLength, fit_pairs
from xmrank.supervised.pan import pan_loss
from xmrank.train.fit_loop import ReportEpoch


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
        """The prototype loss of both modalities."""
        prototypes = F.normalize(self.prototypes, dim=1)
        return pan_loss(self.image(image), prototypes, labels) + pan_loss(self.text(text), prototypes, labels)


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
