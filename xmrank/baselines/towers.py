"""What a fitted baseline is: two towers, one a side, that end in one space; their file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import atomic_path, refuse_special_file, write_json
from xmrank.runtime.storage import local_copy

WEIGHTS, ABOUT = "towers.safetensors", "baseline.json"
ROWS = 8192
"""Rows that go through a tower at once."""

Side = Literal["image", "text"]
Layers = Sequence[tuple[str, dict[str, Any]]]
"""A tower as names of ``LAYERS`` with their arguments."""


class Standardise(nn.Module):
    """(x − centre) / scale, a centre and a scale for each of ``width`` features."""

    centre: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: [rows, width]."""
        return (x - self.centre) / self.scale


class KernelMap(nn.Module):
    """Projection by the centred kernel exp(−gamma · ‖x − anchor‖²) with each of the anchors."""

    anchors: Tensor
    weights: Tensor
    offset: Tensor

    def __init__(self, anchors: int, width: int, dimensions: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("anchors", torch.zeros(anchors, width))
        self.register_buffer("weights", torch.zeros(anchors, dimensions))
        self.register_buffer("offset", torch.zeros(dimensions))

    def forward(self, x: Tensor) -> Tensor:
        """x: [rows, width]."""
        kernel = torch.exp(-self.gamma * torch.cdist(x, self.anchors).square())
        return (kernel - kernel.mean(1, keepdim=True)) @ self.weights + self.offset


LAYERS: dict[str, type[nn.Module]] = {
    "standardise": Standardise,
    "linear": nn.Linear,
    "kernel": KernelMap,
    "relu": nn.ReLU,
    "batch_norm": nn.BatchNorm1d,
    "dropout": nn.Dropout,
}


class ProjectionTowers(nn.Module):
    """The two sides of a baseline.

    Args:
        image, text: the layers of each side; none: what comes in is projected already.
    """

    def __init__(self, image: Layers, text: Layers) -> None:
        super().__init__()
        self.layers = {"image": [*image], "text": [*text]}
        self.image, self.text = (nn.Sequential(*(LAYERS[n](**a) for n, a in side)) for side in (image, text))

    def tower_of(self, side: Side) -> nn.Sequential:
        """One of the towers."""
        return self.image if side == "image" else self.text

    @torch.inference_mode()
    def project(self, side: Side, rows: np.ndarray) -> np.ndarray:
        """The rows of one side in the common space, at unit length.

        Args:
            rows: [items, features], any floating dtype; may be a memory map.

        Returns:
            float32 [items, d].
        """
        tower = self.tower_of(side).eval()
        # Parameters tell the device and precision; a tower without layers has none.
        like = next(iter(tower.state_dict().values()), torch.zeros(()))
        parts = []
        for start in range(0, len(rows), ROWS):
            part = torch.from_numpy(np.asarray(rows[start : start + ROWS], np.float32))
            parts.append(F.normalize(tower(part.to(like)).double(), dim=1).float().cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def standardise_layers(tower: Layers, rows: np.ndarray) -> tuple[Layers, Standardise]:
    """Layers behind a standardisation, and that with the mean and deviation of rows [items, features]."""
    first = Standardise(rows.shape[1])
    # In float64, else the sums of many rows lose digits.
    deviation = rows.std(0, dtype=np.float64)
    first.centre.copy_(torch.from_numpy(rows.mean(0, dtype=np.float64)))
    # A constant feature keeps its scale, not a division by zero.
    first.scale.copy_(torch.from_numpy(np.where(deviation > 0, deviation, 1.0)))
    return [("standardise", {"width": rows.shape[1]}), *tower], first


def save_towers(directory: Path, towers: ProjectionTowers, about: dict[str, Any]) -> None:
    """Write the weights, and the layers beside what else there is to say of them."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in towers.state_dict().items()}
    with atomic_path(directory / WEIGHTS) as temporary:
        save_file(state, temporary)
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    write_json(
        directory / ABOUT, {**about, "layers": towers.layers, "dtype": "float64" if "float64" in dtypes else "float32"}
    )


def load_towers(directory: Path) -> tuple[ProjectionTowers, dict[str, Any]]:
    """The towers of a fitted baseline in evaluation mode, and what its JSON says.

    Raises:
        DataError: no baseline there, or weights that do not fit its layers.
    """
    for name in (ABOUT, WEIGHTS):
        refuse_special_file(directory / name)
    try:
        about = dict(json.loads((directory / ABOUT).read_text()))
        # Without memory of its own: a damaged size could need any amount, and the weights bring theirs.
        with torch.device("meta"):
            towers = ProjectionTowers(about["layers"]["image"], about["layers"]["text"])
        towers = towers.to(getattr(torch, about["dtype"]))
        towers.load_state_dict(load_file(local_copy(directory / WEIGHTS)), assign=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{directory}: not a baseline of this version: {' '.join(str(error).split())[:300]}") from None
    return towers.eval(), about
