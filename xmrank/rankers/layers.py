"""Layers that the rankers share, and how their weights start."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""Activations by the name a parameter has."""


def linear_init_(weight: Tensor, bias: Tensor, *, stacked: int = 1) -> None:
    """Glorot-uniform weight, and a bias uniform within ±1/√inputs, in place, from torch's global generator.

    `stacked` matrices that share one tensor for speed are each initialised as if they stood alone.
    """
    for part in weight.chunk(stacked):
        nn.init.xavier_uniform_(part)
    bound = weight.shape[1] ** -0.5
    nn.init.uniform_(bias, -bound, bound)


def linear(inputs: int, outputs: int, *, stacked: int = 1) -> nn.Linear:
    """A linear layer started by `linear_init_`."""
    layer = nn.Linear(inputs, outputs)
    linear_init_(layer.weight, layer.bias, stacked=stacked)
    return layer


class Dropout(nn.Module):
    """Drops each element with the given probability and scales the others to keep the expectation; only in training.

    What is dropped follows from `dropout_draws`; outside of it, from torch's global generator of the device. The
    probability is rounded to a multiple of 2⁻¹⁶, and the scale is that of the rounded one.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Any shape and floating dtype → the same."""
        if not self.training or self.probability == 0:
            return x
        dropped = min(round(self.probability * 2**16), 2**16 - 1)
        keep: Tensor = _Keep.apply(x, dropped)
        return x * keep


_generators: ContextVar[Sequence[torch.Generator | None]] = ContextVar("generators", default=(None,))


@contextlib.contextmanager
def dropout_draws(generators: Sequence[torch.Generator | None]) -> Iterator[None]:
    """Draw what is dropped with these generators, of the device of the rankers.

    Args:
        generators: one; or one a model when models are called together under `torch.func.vmap`: each of them then
            drops what it would drop by itself.
    """
    token = _generators.set(generators)
    try:
        yield
    finally:
        _generators.reset(token)


class _Keep(torch.autograd.Function):
    """What an input is multiplied by: 0 for what is dropped, the scale for the rest. Not differentiable.

    A function with a rule of its own for vmap, because the random numbers of a model must not depend on its company.
    """

    @staticmethod
    def forward(x: Tensor, dropped: int) -> Tensor:
        return _draw(x.shape, x, dropped, _generators.get()[0])

    @staticmethod
    def setup_context(ctx: Any, _inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(_ctx: Any, _gradient: Tensor) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(_info: Any, in_dims: tuple[int, None], x: Tensor, dropped: int) -> tuple[Tensor, int]:
        shape = x.shape[: in_dims[0]] + x.shape[in_dims[0] + 1 :]
        return torch.stack([_draw(shape, x, dropped, generator) for generator in _generators.get()]), 0


def _draw(shape: Sequence[int], like: Tensor, dropped: int, generator: torch.Generator | None) -> Tensor:
    """0 with probability `dropped` / 2¹⁶, else the scale; [shape], the dtype and device of `like`.

    Four elements share one draw of 64 bits, 16 bits each: on a CPU 3-4 times faster than a draw for each.
    """
    size = math.prod(shape)
    draws = torch.randint(-(2**63), 2**63 - 1, (-(-size // 4),), generator=generator, device=like.device)
    keep = (draws.view(torch.int16) >= dropped - 2**15)[:size].view(shape)
    return keep.to(like.dtype).mul_(2**16 / (2**16 - dropped))


class FullyConnected(nn.Module):
    """What follows the first linear layer: activation and dropout, then the same after each further linear layer.

    Args:
        sizes: outputs of the first layer, which is not part of this module, and of the further ones.
        activation: a name among `parameters.ACTIVATIONS`; None: none.
        dropout: probability of dropping an activation.
    """

    def __init__(self, sizes: tuple[int, ...], *, activation: str | None, dropout: float) -> None:
        super().__init__()
        self.activation = ACTIVATION_FUNCTIONS[activation] if activation else None
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(linear(inputs, outputs) for inputs, outputs in pairwise(sizes))

    def forward(self, hidden: Tensor) -> Tensor:
        """[lists, items, sizes[0]] → [lists, items, sizes[-1]]."""
        hidden = self._finish(hidden)
        for layer in self.layers:
            hidden = self._finish(layer(hidden))
        return hidden

    def _finish(self, hidden: Tensor) -> Tensor:
        activated: Tensor = self.dropout(hidden if self.activation is None else self.activation(hidden))
        return activated
