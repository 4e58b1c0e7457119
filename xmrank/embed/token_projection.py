"""Narrower tokens by principal component analysis, fitted on a sample of the training split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xmrank.embed.token_store import Side
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import atomic_path
from xmrank.runtime.storage import local_copy

PROJECTION = "token_projection.safetensors"


@dataclass(frozen=True)
class TokenProjection:
    """The principal axes of one side's tokens.

    Attributes:
        mean: float32 [channels].
        axes: float32 [width, channels], orthonormal rows; the largest variance first.
        explained: fraction of the sample's variance that the axes keep.
    """

    mean: Tensor
    axes: Tensor
    explained: float

    def project(self, values: Tensor) -> Tensor:
        """Tokens [n, channels] → their coordinates along the axes, [n, width]."""
        return (values - self.mean.to(values.device)) @ self.axes.to(values.device).T


class TokenMoments:
    """The count, sum and outer products of tokens, added up batch by batch in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sum = torch.zeros(channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Add tokens [n, channels]."""
        # On the CPU: the sums of a GPU may differ from run to run.
        wide = values.detach().cpu().to(torch.float64)
        self.count += len(wide)
        self.sum += wide.sum(0)
        self.products += wide.T @ wide

    def fit(self, width: int) -> TokenProjection:
        """The first axes of the tokens that were added.

        Raises:
            DataError: no tokens were added, or some of them were NaN or infinite.
        """
        if not self.count:
            raise DataError("--token-width: no item of the sample for the PCA could be read")
        if not torch.isfinite(self.products).all():
            raise DataError("--token-width: the sample for the PCA has tokens with NaN or infinity")
        mean = self.sum / self.count
        covariance = self.products / self.count - torch.outer(mean, mean)
        variances, vectors = torch.linalg.eigh(covariance)  # ascending
        axes = vectors.flip(1).T[:width]
        # An axis may point either way: its largest number is made positive, so that equal data give equal axes.
        largest = axes.abs().argmax(1, keepdim=True)
        axes = axes * axes.gather(1, largest).sign()
        kept = variances.flip(0)[:width].sum() / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
        return TokenProjection(mean.float(), axes.float().contiguous(), float(kept))


def sample_rows(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """At most ``count`` of the rows, chosen at random, in ascending order."""
    if len(rows) <= count:
        return np.sort(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def write_projections(directory: Path, projections: dict[Side, TokenProjection]) -> None:
    """Write the axes of the sides that have some."""
    tensors: dict[str, Tensor] = {}
    for side, projection in projections.items():
        tensors |= {f"{side}_mean": projection.mean, f"{side}_axes": projection.axes}
        tensors[f"{side}_explained"] = torch.tensor(projection.explained, dtype=torch.float64)
    with atomic_path(directory / PROJECTION) as temporary:
        save_file(tensors, temporary)


def read_projections(directory: Path) -> dict[Side, TokenProjection] | None:
    """What `write_projections` wrote; None: nothing."""
    if not (directory / PROJECTION).is_file():
        return None
    tensors: dict[str, Any] = load_file(local_copy(directory / PROJECTION))
    sides: tuple[Side, Side] = ("image", "text")
    return {
        side: TokenProjection(tensors[f"{side}_mean"], tensors[f"{side}_axes"], float(tensors[f"{side}_explained"]))
        for side in sides
        if f"{side}_mean" in tensors
    }
