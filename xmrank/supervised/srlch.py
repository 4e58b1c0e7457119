"""SRLCH: kernel features and labels are projected to common binary codes, which have a closed form; LCM's ancestor."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from xmrank.baselines.towers import Standardise
from xmrank.config.supervised import SupervisedConfig
from xmrank.config.supervised_methods import SrlchConfig
from xmrank.supervised.hash_codes import Signs
from xmrank.supervised.jlslr import solve_ridge
from xmrank.supervised.labelled_set import LabelledSet, unit_rows
from xmrank.supervised.method_training import FittedMethod, TwoSides, UnitLength
from xmrank.train.fit_loop import ReportEpoch

WEIGHTS = ("image_weight", "text_weight", "label_ridge", "image_ridge", "text_ridge")
"""Settings that stand in the objective."""


@dataclass(frozen=True)
class SrlchState:
    """A state of the alternating solution.

    Attributes:
        image, text: P, projections of kernel features to codes, [anchors + 1, bits].
        labels: W, projection of labels to codes, [classes, bits].
        codes: B, ±1, [items, bits].
    """

    image: np.ndarray
    text: np.ndarray
    labels: np.ndarray
    codes: np.ndarray


def srlch_objective(
    image: np.ndarray,
    text: np.ndarray,
    labels: np.ndarray,
    image_weights: np.ndarray,
    text_weights: np.ndarray,
    label_weights: np.ndarray,
    codes: np.ndarray,
    *,
    image_weight: float,
    text_weight: float,
    label_ridge: float,
    image_ridge: float,
    text_ridge: float,
) -> float:
    """What SRLCH minimises over P, W and B of ±1.

    Definition: ‖B − YW‖² + λ‖W‖² + Σₘ μₘ(‖B − φ(Xₘ)Pₘ‖² + αₘ‖Pₘ‖²), Frobenius norms.

    Args:
        image, text: kernel features φ(X) with a last column of ones, [items, anchors + 1].
        labels: Y, 0 or 1, [items, classes].
        image_weights, text_weights: P, [anchors + 1, bits] each.
        label_weights: W, [classes, bits].
        codes: B, ±1, [items, bits].
        image_weight, text_weight: μ.
        label_ridge: λ.
        image_ridge, text_ridge: α.

    Source: Shen et al., "Exploiting subspace relation in semantic labels for cross-modal hashing", TKDE 2021 (Liu et
        al., DASFAA 2018); the norms of P and W are those that its steps and its authors' code imply.
    """
    total = np.square(codes - labels @ label_weights).sum() + label_ridge * np.square(label_weights).sum()
    sides = (
        (image_weight, image_ridge, image, image_weights),
        (text_weight, text_ridge, text, text_weights),
    )
    for weight, ridge, rows, projection in sides:
        distance = np.square(codes - rows @ projection).sum()
        total += weight * (distance + ridge * np.square(projection).sum())
    return float(total)


def improve_codes(
    image: np.ndarray,
    text: np.ndarray,
    labels: np.ndarray,
    codes: np.ndarray,
    *,
    image_weight: float,
    text_weight: float,
    label_ridge: float,
    image_ridge: float,
    text_ridge: float,
) -> SrlchState:
    """One round: P and W by ridge regression on B, then B = sign(YW + Σₘ μₘφ(Xₘ)Pₘ) with sign(0) = +1.

    Each step is the objective's minimum over one group of variables.

    Args:
        image, text, labels, image_weight, text_weight, label_ridge, image_ridge, text_ridge: as for
            ``srlch_objective``.
        codes: B before the round.

    Source: the same, steps 1 to 3 of its algorithm.
    """
    own = solve_ridge(image, codes, image_ridge), solve_ridge(text, codes, text_ridge)
    semantic = solve_ridge(labels, codes, label_ridge)
    weighted = labels @ semantic + image_weight * image @ own[0] + text_weight * text @ own[1]
    return SrlchState(own[0], own[1], semantic, np.where(weighted >= 0, 1.0, -1.0))


def gaussian_features(rows: Tensor, anchors: Tensor, *, sigma: float) -> Tensor:
    """φ without its column of ones: exp(−‖x − anchor‖² / 2σ²), [rows, anchors].

    Args:
        rows, anchors: centred features of unit length, [rows, d] and [anchors, d].
        sigma: σ.

    Source: the same; as in its authors' code.
    """
    return torch.exp(-torch.cdist(rows, anchors).square() / (2 * sigma**2))


class GaussianFeatures(nn.Module):
    """exp(−‖x − anchor‖² / 2σ²) for each anchor."""

    anchors: Tensor

    def __init__(self, anchors: Tensor, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.register_buffer("anchors", anchors)

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, d] → [rows, anchors]."""
        return gaussian_features(rows, self.anchors, sigma=self.sigma)


class Srlch(TwoSides):
    """Centring, unit length, Gaussian features and a projection for each modality, and perhaps signs."""

    def __init__(self, image: nn.Sequential, text: nn.Sequential) -> None:
        super().__init__()
        self.image, self.text = image, text


def make_kernel_map(rows: np.ndarray, config: SrlchConfig, generator: np.random.Generator) -> nn.Sequential:
    """Centring, unit length, and Gaussian features of anchors drawn among the rows."""
    first = Standardise(rows.shape[1])
    mean = rows.mean(0, dtype=np.float64)
    first.centre.copy_(torch.from_numpy(mean))
    drawn = generator.permutation(len(rows))[: config.anchors]
    anchors = torch.from_numpy(unit_rows(rows[drawn] - mean))
    return nn.Sequential(first, UnitLength(), GaussianFeatures(anchors, config.sigma))


def fit_srlch(
    data: LabelledSet, config: SupervisedConfig, seed: int, _device: torch.device, _report: ReportEpoch
) -> FittedMethod:
    """SRLCH, ranked by the Euclidean distance of its projections, as LCM is."""
    return _fit(data, config.srlch, seed, binary=False)


def fit_srlch_hash(
    data: LabelledSet, config: SupervisedConfig, seed: int, _device: torch.device, _report: ReportEpoch
) -> FittedMethod:
    """SRLCH as published: signs of the projections, by Hamming distance."""
    return _fit(data, config.srlch, seed, binary=True)


def _fit(data: LabelledSet, config: SrlchConfig, seed: int, *, binary: bool) -> FittedMethod:
    generator = np.random.default_rng(seed)
    maps = [make_kernel_map(rows, config, generator) for rows in (data.train.image, data.train.text)]
    with torch.no_grad():
        features = [
            np.pad(own(torch.from_numpy(rows)).double().numpy(), ((0, 0), (0, 1)), constant_values=1.0)
            for own, rows in zip(maps, (data.train.image, data.train.text), strict=True)
        ]
    labels = data.train.labels.astype(np.float64)
    codes = np.where(generator.random((len(labels), config.bits)) < 0.5, -1.0, 1.0)
    weights = {name: getattr(config, name) for name in WEIGHTS}
    for _ in range(config.rounds):
        state = improve_codes(features[0], features[1], labels, codes, **weights)
        codes = state.codes
    sides = [nn.Sequential(*own, _as_layer(w)) for own, w in zip(maps, (state.image, state.text), strict=True)]
    if binary:
        sides = [nn.Sequential(*side, Signs()) for side in sides]
    module = Srlch(sides[0], sides[1])
    return FittedMethod(module.embed, data.train.labels, module=module, binary=binary)


def _as_layer(weights: np.ndarray) -> nn.Linear:
    """A projection whose last row belongs to the column of ones."""
    layer = nn.Linear(len(weights) - 1, weights.shape[1])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights[:-1].T)))
        layer.bias.copy_(torch.from_numpy(weights[-1]))
    return layer
