"""What all losses share: checked, masked lists, their gains, discounts and ranks."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from xmrank.losses.loss_sum import LossSum


@dataclass(frozen=True)
class ListBatch:
    """A batch of lists, ready to compute with: padding holds score 0 and label 0, precision is float32 or float64.

    Attributes:
        scores: [lists, items] (or [lists, items, levels] for an ordinal head).
        labels: [lists, items], in the scores' dtype.
        mask: True where an item is real, [lists, items].
    """

    scores: Tensor
    labels: Tensor
    mask: Tensor

    @classmethod
    def of(cls, scores: Tensor, labels: Tensor, mask: Tensor | None, *, levels: bool = False) -> Self:
        """Checks and prepares the arguments of a loss; `levels` when the scores have a third axis.

        Raises:
            ValueError: the shapes do not match, the scores are not floating, the mask is not bool, or a real item has a
                negative label (looked at on a CPU only: on an accelerator it would wait for the device).
        """
        _check(scores, labels, mask, axes=3 if levels else 2)
        real = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        dtype = scores.dtype if scores.dtype == torch.float64 else torch.float32
        if scores.shape[1] == 0:  # one padded item, so that reductions over items are defined
            scores, labels, real = (_one_item(tensor) for tensor in (scores, labels, real))
        padding = ~real
        clean = labels.to(dtype).masked_fill(padding, 0)
        if on_host(clean) and bool((clean < 0).any()):
            raise ValueError("labels must be at least 0; padding is given by the mask, not by a label")
        scores = scores.to(dtype).masked_fill(padding.unsqueeze(2) if levels else padding, 0)
        return cls(scores, clean, real)

    @property
    def items(self) -> int:
        """Length of the lists, padding included."""
        return self.labels.shape[1]

    @property
    def relevant(self) -> Tensor:
        """True for a list with a label above 0, [lists]."""
        return (self.labels > 0).any(1)

    def filled(self, value: float) -> Tensor:
        """The scores with `value` at padding, [lists, items]."""
        return self.scores.masked_fill(~self.mask, value)

    def lowest(self) -> float:
        """A score below any other whose differences to them stay finite."""
        return torch.finfo(self.scores.dtype).min / 4

    def gains(self) -> Tensor:
        """2^y − 1, [lists, items]."""
        return torch.exp2(self.labels) - 1

    def discounts(self) -> Tensor:
        """1 / log2(1 + r) for r = 1..items, [items]."""
        ranks = torch.arange(1, self.items + 1, dtype=self.scores.dtype, device=self.scores.device)
        return 1 / torch.log2(1 + ranks)

    def ideal_dcg(self, gains: Tensor, k: int | None = None) -> Tensor:
        """The largest DCG@k that any order of `gains` has, [lists]."""
        best = gains.sort(dim=1, descending=True).values
        return (best * self.discounts())[:, :k].sum(1)

    def ranks(self) -> Tensor:
        """Each item's rank by score, from 1, ties by position, padding last: int64 [lists, items]."""
        order = self.filled(float("-inf")).argsort(dim=1, descending=True, stable=True)
        places = torch.arange(1, self.items + 1, device=order.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, places)

    def mean(self, values: Tensor, counted: Tensor | None = None) -> LossSum:
        """Terms of a mean over lists.

        Args:
            values: the loss of each list, finite, [lists].
            counted: the lists that count, bool [lists]; None: those with a label above 0.
        """
        counted = self.relevant if counted is None else counted
        return LossSum(values.masked_fill(~counted, 0), counted.to(values.dtype))


def on_host(tensor: Tensor) -> bool:
    """Whether its values can be looked at without waiting for a device."""
    return tensor.device.type == "cpu"


def _check(scores: Tensor, labels: Tensor, mask: Tensor | None, axes: int) -> None:
    if scores.dim() != axes:
        names = "[lists, items, levels]" if axes == 3 else "[lists, items]"
        raise ValueError(f"scores must be {names}, not of shape {tuple(scores.shape)}")
    if not scores.is_floating_point():
        raise ValueError(f"scores must be floating, not {scores.dtype}")
    if labels.shape != scores.shape[:2]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, the scores' lists {tuple(scores.shape[:2])}")
    if mask is not None and mask.shape != labels.shape:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, the labels {tuple(labels.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"the mask must be bool (True = a real item), not {mask.dtype}")


def _one_item(tensor: Tensor) -> Tensor:
    """An empty [lists, 0, ...] tensor with one item of zeros, still part of its graph."""
    return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, 1))


def check_k(k: int | None) -> None:
    """Refuses a cut-off that keeps nothing."""
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1 or None, not {k}")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuses a value that is none of the choices, naming them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def check_positive(name: str, value: float) -> None:
    """Refuses a parameter that is divided by or multiplies every score, unless it is above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value}")
