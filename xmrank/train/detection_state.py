"""The state of a word detection that is not done: another process goes on from it to the same weights."""

import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from xmrank.runtime.files import atomic_path
from xmrank.runtime.storage import local_copy

PERIOD_S = 5.0
"""Seconds between two states on disk."""
STEP, DROPOUT, MOMENTS, WEIGHTS = "step", "dropout", "moments", "weights"


class DetectionState:
    """Keeps what a training needs to go on: weights, the optimizer's moments, the generator of dropout, and the step.

    Args:
        path: of the file.
        weights: those that are trained, by name.
        optimizer: has these weights, in any groups.
        dropout: the generator that dropout draws from.
    """

    def __init__(
        self, path: Path, weights: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, dropout: torch.Generator
    ) -> None:
        self.path, self.weights, self.optimizer, self.dropout = path, weights, optimizer, dropout
        self.saved = time.monotonic()

    @torch.no_grad()
    def load(self) -> int:
        """Go on from the file; returns the number of steps that are done, 0 where there is no file that can be read."""
        try:
            # Read whole before anything is changed: a damaged file leaves the start as it is.
            with safe_open(local_copy(self.path), "pt") as file:
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
        except (FileNotFoundError, SafetensorError):
            return 0
        state = self.optimizer.state_dict()
        state["state"] = {}
        for name, value in kept.items():
            kind, _, rest = name.partition("/")
            if kind == WEIGHTS:
                self.weights[rest].copy_(value)
            elif kind == MOMENTS:
                number, _, moment = rest.partition("/")
                state["state"].setdefault(int(number), {})[moment] = value
        self.optimizer.load_state_dict(state)
        self.dropout.set_state(kept[DROPOUT])
        return int(kept[STEP])

    def save_sometimes(self, step: int) -> None:
        """Write the state after so many steps, if the last time is a while ago."""
        if time.monotonic() - self.saved < PERIOD_S:
            return
        kept: dict[str, Tensor] = {f"{WEIGHTS}/{name}": value.detach() for name, value in self.weights.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            kept |= {f"{MOMENTS}/{number}/{name}": value for name, value in moments.items()}
        kept |= {DROPOUT: self.dropout.get_state(), STEP: torch.tensor(step)}
        with atomic_path(self.path) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in kept.items()}, temporary)
        self.saved = time.monotonic()
