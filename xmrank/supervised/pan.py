"""PAN: one prototype a class for both modalities, a classifier by distance or dot product, margins between classes."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmrank.config.supervised import SupervisedConfig
from xmrank.config.supervised_methods import PanConfig
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
    return share_targets(-squared_distances(features, prototypes), labels)


def squared_distances(features: Tensor, prototypes: Tensor) -> Tensor:
    """‖f − m_c‖² by one matrix product, [items, classes]."""
    return features.square().sum(1, keepdim=True) + prototypes.square().sum(1) - 2 * features @ prototypes.T


def share_targets(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy whose target several labels share evenly; the mean over the items that have a label."""
    counts = labels.sum(dim=1, keepdim=True)
    # Items without a label get a target of zeros, and so no loss.
    target = labels / counts.clamp(min=1)
    losses = -(target * F.log_softmax(logits, dim=1)).sum(dim=1)
    return losses.sum() / (counts > 0).sum().clamp(min=1)


def prototype_loss(features: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """The regularisation: the mean over items of Σ_c y_c / Σy · ‖f − m_c‖².

    Args:
        features, prototypes, labels: as for ``pan_loss``.

    Source: the same; Yang et al., "Robust classification with convolutional prototype learning", CVPR 2018, equation 9.
    """
    counts = labels.sum(dim=1, keepdim=True)
    target = labels / counts.clamp(min=1)
    pulled = (target * squared_distances(features, prototypes)).sum(dim=1)
    return pulled.sum() / (counts > 0).sum().clamp(min=1)


def adaptive_margins(prototypes: Tensor) -> Tensor:
    """Half the squared distance of each prototype to the nearest other one, [classes]; no gradient goes through it.

    A margin that moves with the prototypes: classes that are far from all others have to be kept apart more.

    Args:
        prototypes: [classes, d].

    Source: our reading of the margins that Zeng et al., SIGIR 2021 (as ``pan_loss``) name; no public source has them.
    """
    squared = squared_distances(prototypes, prototypes).detach()
    own = torch.eye(len(prototypes), dtype=torch.bool, device=prototypes.device)
    nearest = squared.masked_fill(own, torch.inf).amin(dim=1)
    # A single class has no other: no margin.
    return torch.where(nearest.isfinite(), nearest / 2, torch.zeros_like(nearest))


def pan_objective(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    classifier: Literal["distance", "dot"] = "distance",
    regularisation: float = 0.0,
    margin: float = 0.0,
) -> Tensor:
    """The loss of one modality.

    Definition: cross entropy of logits l_c, −‖f − m_c‖² or f · m_c, less margin · δ_c where c is the item's label, with
    δ of ``adaptive_margins``; plus regularisation times ``prototype_loss``.

    Args:
        features, prototypes, labels: as for ``pan_loss``.
        classifier: distance, or dot product.
        regularisation, margin: weights; 0 leaves a part out, and with both 0 and distances this is ``pan_loss``.

    Source: as for ``pan_loss``; the dot product is CLIP4CMR's, as its text has it beside distances.
    """
    logits = -squared_distances(features, prototypes) if classifier == "distance" else features @ prototypes.T
    if margin:
        logits = logits - margin * adaptive_margins(prototypes) * labels
    loss = share_targets(logits, labels)
    return loss + regularisation * prototype_loss(features, prototypes, labels) if regularisation else loss


class Pan(TwoSides):
    """Two layers for each modality and free prototypes; what is searched has unit length."""

    image: nn.Sequential
    text: nn.Sequential

    def __init__(self, image: int, text: int, classes: int, config: PanConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.text = (
            nn.Sequential(
                nn.Linear(inputs, config.width), nn.ReLU(), nn.Linear(config.width, config.dimensions), UnitLength()
            )
            for inputs in (image, text)
        )
        self.prototypes = nn.Parameter(config.dimensions**-0.5 * torch.randn(classes, config.dimensions))

    def compute_loss(self, image: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        """The loss of both modalities, on features before they get unit length."""
        own = self.config
        losses = [
            pan_objective(
                features,
                self.prototypes,
                labels,
                classifier=own.classifier,
                regularisation=own.regularisation,
                margin=own.margin,
            )
            for features in (self.image[:-1](image), self.text[:-1](text))
        ]
        return losses[0] + losses[1]


def fit_pan(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """PAN; stops on the mAP of validation by distance."""
    own = config.pan
    module = Pan(*data.widths, own).to(device)
    return fit_pairs(
        module,
        torch.optim.Adam(module.parameters(), lr=own.learning_rate, fused=True),
        module.compute_loss,
        data,
        batch_size=own.batch_size,
        epochs=own.epochs,
        patience=config.patience,
        report=report,
        seed=seed,
    )
