"""CLIP4CMR: a small network on the features of each modality, and a prototype for each class (PAN)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.config.supervised import Clip4cmrConfig, SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, TwoSides, UnitLength, fit_pairs
from xmrank.train.fit_loop import ReportEpoch


def pan_loss(features: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """Distance-based cross entropy to one prototype a class.

    Definition: the mean over items of −Σ_c y_c / Σy · log softmax_c(−‖f − m_c‖²). With one label an item this is PAN's
    loss; several labels share its target evenly, and items without a label are left out of the mean. The authors' code
    divides by the number of items once more, which a step of Adam does not notice.

    Args:
        features: in the common space, [items, d].
        prototypes: m, [classes, d].
        labels: 0 or 1, [items, classes], in the features' dtype.

    Returns:
        A scalar; 0, with a gradient, where no item has a label.

    Source: Zeng et al., "PAN: prototype-based adaptive network for robust cross-modal retrieval", SIGIR 2021; used by
        Zeng and Mao (CLIP4CMR), arXiv 2201.02772.
    """
    # Distances to all prototypes by one matrix product.
    squared = features.square().sum(1, keepdim=True) + prototypes.square().sum(1) - 2 * features @ prototypes.T
    counts = labels.sum(dim=1, keepdim=True)
    # Items without a label get a target of zeros, and so no loss.
    target = labels / counts.clamp(min=1)
    losses = -(target * F.log_softmax(-squared, dim=1)).sum(dim=1)
    return losses.sum() / (counts > 0).sum().clamp(min=1)


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
