"""CCA, kernel CCA and DCCA of the baselines, as methods of the supervised table; they see no label."""

from functools import partial

import numpy as np
import torch

from xmrank.baselines.closed import fit_cca, fit_kernel_cca
from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.heads import Dcca, HeadTraining, train_heads
from xmrank.baselines.towers import ProjectionTowers
from xmrank.config.supervised import SupervisedConfig
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_training import FittedMethod, Side, TwoSides, naive_map
from xmrank.train.fit_loop import EpochFigures, ReportEpoch


class TowerSides(TwoSides):
    """The towers of a baseline; what they project has unit length."""

    def __init__(self, towers: ProjectionTowers) -> None:
        super().__init__()
        self.towers = towers

    def embed(self, side: Side, features: np.ndarray) -> np.ndarray:
        """Features in the common space, float32 [items, d]."""
        return self.towers.project(side, features)


def fit_linear_cca(
    data: LabelledSet, config: SupervisedConfig, _seed: int, _device: torch.device, _report: ReportEpoch
) -> FittedMethod:
    """Linear CCA of standardised features."""
    return _fitted(data, TowerSides(fit_cca(_pairs_of(data), config.cca)))


def fit_gaussian_cca(
    data: LabelledSet, config: SupervisedConfig, _seed: int, _device: torch.device, _report: ReportEpoch
) -> FittedMethod:
    """Kernel CCA with Gaussian kernels."""
    return _fitted(data, TowerSides(fit_kernel_cca(_pairs_of(data), config.kernel_cca)))


def fit_dcca(
    data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device, report: ReportEpoch
) -> FittedMethod:
    """DCCA; keeps the epoch with the best mAP of validation by distance."""
    training = HeadTraining(seed, device, partial(_measure_towers, data), report_epoch=report)
    towers, best = train_heads(_pairs_of(data), config.dcca, training, kind=Dcca)
    return _fitted(data, TowerSides(towers), best.epochs, best.number)


def _measure_towers(data: LabelledSet, towers: ProjectionTowers) -> EpochFigures:
    value = naive_map(TowerSides(towers), data.validation)
    # The loop of the baselines decides by validation_mean.
    return {"validation_mean": value, "validation_map": value}


def _pairs_of(data: LabelledSet) -> FeaturePairs:
    """Every training item as an image with one caption."""
    image, text = data.train.image, data.train.text
    return FeaturePairs(image, text, np.arange(len(image), dtype=np.int64), text)


def _fitted(
    data: LabelledSet, sides: TowerSides, history: list[EpochFigures] | None = None, best: int = 0
) -> FittedMethod:
    return FittedMethod(sides.embed, data.train.labels, history=history or [], best_round=best, module=sides)
