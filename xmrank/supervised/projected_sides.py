"""What methods that are solved in one go share: linear projections of both modalities as a module, and label sums."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, TwoSides, UnitLength


@dataclass(frozen=True)
class Projection:
    """x → (x − centre) · weights.

    Attributes:
        centre: float64 [features].
        weights: float64 [features, d].
    """

    centre: np.ndarray
    weights: np.ndarray

    def as_layer(self) -> nn.Linear:
        """The projection as one layer, float32."""
        layer = nn.Linear(*self.weights.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(self.weights.T)))
            # W(x − m) = Wx − Wm.
            layer.bias.copy_(torch.from_numpy(-self.centre @ self.weights))
        return layer


class NormalisedSides(TwoSides):
    """A stack of layers for each modality that ends at unit length, so that distances order as cosines."""

    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.image, self.text = nn.Sequential(image, UnitLength()), nn.Sequential(text, UnitLength())


def project_linearly(data: LabelledSet, image: Projection, text: Projection) -> FittedMethod:
    """The method that projects both modalities linearly and compares directions."""
    sides = NormalisedSides(image.as_layer(), text.as_layer())
    return FittedMethod(sides.embed, data.train.labels, module=sides)


def centre_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in float64 less their mean, and the mean."""
    wide = np.asarray(rows, np.float64)
    mean = wide.mean(0)
    return wide - mean, mean


def ridge_of(covariance: np.ndarray, share: float) -> np.ndarray:
    """A share of the mean variance, times the identity."""
    return share * float(np.trace(covariance)) / len(covariance) * np.eye(len(covariance))


def shared_labels(labels: np.ndarray) -> np.ndarray:
    """Labels of items that sum to 1: an item of several labels belongs to each in part.

    Args:
        labels: 0 or 1, [items, classes].

    Returns:
        float64 [items, classes]; rows without a label stay zero.
    """
    values = np.asarray(labels, np.float64)
    return values / np.maximum(values.sum(axis=1, keepdims=True), 1)


@dataclass(frozen=True)
class LabelGroups:
    """Items with one and the same row of labels, as graphs over labels see them.

    Attributes:
        rows: the different label rows, float64 [groups, classes].
        group: of each item, int64 [items].
        counts: items of each group, float64 [groups].
    """

    rows: np.ndarray
    group: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> "LabelGroups":
        """The groups of label rows [items, classes]."""
        rows, group, counts = np.unique(np.asarray(labels, np.float64), axis=0, return_inverse=True, return_counts=True)
        return cls(rows, group.reshape(-1), counts.astype(np.float64))

    def sum_items(self, values: np.ndarray) -> np.ndarray:
        """Sums over the items of each group, float64 [groups, d]."""
        sums = np.zeros((len(self.rows), values.shape[1]))
        np.add.at(sums, self.group, values)
        return sums
