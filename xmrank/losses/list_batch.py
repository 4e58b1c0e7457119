"""What all losses share: checked, masked lists, their gains, discounts and ranks."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from xmrank.losses.loss_sum import LossSum


@dataclass(frozen=True)
class ListBatch:
    """A batch of lists, ready to compute with: padding has score 0 and label 0, precision is float32 or float64.

    Attributes:
        scores: [lists, items] (or [lists, items, levels] for an ordinal head).
        labels: [lists, items], in the scores' dtype.
        mask: True where an item is real, [lists, items].
    """

    scores: Tensor
    labels: Tensor
    mask: Tensor

    @classmethod
    def from_tensors(cls, scores: Tensor, labels: Tensor, mask: Tensor | None, *, levels: bool = False) -> Self:
        """Check and prepare the arguments of a loss.

        Args:
            scores: [items] for one list, [lists, items] for a batch; with `levels` there is a further, last axis.
            labels: [items] or [lists, items].
            mask: True where an item is real, [items] or [lists, items]; None: all are.
            levels: the scores have a last axis of levels.

        Raises:
            ValueError: the shapes do not match, the scores are not floating, the mask is not bool, or a real item has a
                negative label (looked at on a CPU only: an accelerator would have to be waited for).
        """
        # Shapes and types first, so that a message names what was given.
        _check_tensors(scores, labels, mask, levels)
        real = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        if labels.dim() == 1:  # one list is a batch of one
            scores, labels, real = scores.unsqueeze(0), labels.unsqueeze(0), real.unsqueeze(0)
        if scores.shape[1] == 0:  # one padded item, so that reductions over items are defined
            scores, labels, real = _append_item(scores), _append_item(labels), _append_item(real)
        # Half precision has too few digits for sums over a list; float64 stays what it is.
        dtype = scores.dtype if scores.dtype == torch.float64 else torch.float32
        padding = ~real
        labels = labels.to(dtype).masked_fill(padding, 0)
        if on_host(labels) and not bool((labels >= 0).all()):  # so is NaN refused
            raise ValueError("labels must be at least 0; padding is given by the mask, not by a label")
        # Filled, not multiplied by 0: padding may be NaN, and must not have a gradient.
        scores = scores.to(dtype).masked_fill(padding.unsqueeze(2) if levels else padding, 0)
        return cls(scores, labels, real)

    @property
    def items(self) -> int:
        """Length of the lists, padding included."""
        return self.labels.shape[1]

    @property
    def has_relevant(self) -> Tensor:
        """True for a list with a label above 0, bool [lists]."""
        return (self.labels > 0).any(1)

    @property
    def lowest_score(self) -> float:
        """A score below any other, whose differences to others stay finite."""
        return torch.finfo(self.scores.dtype).min / 4

    def fill_padding(self, value: float) -> Tensor:
        """The scores with `value` at padding, [lists, items]."""
        return self.scores.masked_fill(~self.mask, value)

    def exponential_gains(self) -> Tensor:
        """2^y − 1, [lists, items]."""
        return torch.exp2(self.labels) - 1

    def rank_discounts(self) -> Tensor:
        """1 / log2(1 + r) for the ranks r = 1..items, [items]."""
        ranks = torch.arange(1, self.items + 1, dtype=self.scores.dtype, device=self.scores.device)
        return 1 / torch.log2(1 + ranks)

    def ideal_dcg(self, gains: Tensor, k: int | None = None) -> Tensor:
        """The largest DCG@k that any order of `gains` [lists, items] has, [lists]."""
        # Padding has gain 0: it sorts last and adds nothing.
        best = gains.sort(dim=1, descending=True).values
        return (best * self.rank_discounts())[:, :k].sum(1)

    def rank_items(self) -> Tensor:
        """Each item's rank by score, from 1, ties by position, padding last: int64 [lists, items]."""
        order = self.fill_padding(float("-inf")).argsort(dim=1, descending=True, stable=True)
        # The r-th entry of `order` is the item on rank r; scattering the ranks inverts that.
        ranks = torch.arange(1, self.items + 1, device=order.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, ranks)

    def average_lists(self, values: Tensor, counted: Tensor | None = None) -> LossSum:
        """The loss sums of a mean over lists.

        Args:
            values: the loss of each list, finite, [lists].
            counted: the lists that count, bool [lists]; None: those with a label above 0.
        """
        # A list that does not count has 0 in both, and its value, finite, no gradient.
        counted = self.has_relevant if counted is None else counted
        return LossSum(values.masked_fill(~counted, 0), counted.to(values.dtype))


def on_host(tensor: Tensor) -> bool:
    """Whether its values can be looked at without waiting for a device."""
    return tensor.device.type == "cpu"


def _check_tensors(scores: Tensor, labels: Tensor, mask: Tensor | None, levels: bool) -> None:
    shape = scores.shape[:-1] if levels else scores.shape
    if len(shape) not in (1, 2):
        names = "[items, levels] or [lists, items, levels]" if levels else "[items] or [lists, items]"
        raise ValueError(f"scores must be {names}, not of shape {tuple(scores.shape)}")
    if not scores.is_floating_point():
        raise ValueError(f"scores must be floating, not {scores.dtype}")
    if labels.shape != shape:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, the scores' lists {tuple(shape)}")
    if mask is not None and mask.shape != labels.shape:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, the labels {tuple(labels.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"the mask must be bool (True = a real item), not {mask.dtype}")


def _append_item(tensor: Tensor) -> Tensor:
    """An empty [lists, 0, ...] tensor with one item of zeros, still connected to its graph."""
    return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, 1))
