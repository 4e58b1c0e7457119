"""The numerator and denominator of a loss, list by list, so that batches can be joined after the fact."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xmrank.losses.loss_parameters import BatchReduction

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class LossSum:
    """What each list adds to a loss.

    The value of any set of lists, whichever batches, processes or models they came from, is
    Σ numerator / Σ denominator, or Σ numerator where `reduction` is "sum".

    Attributes:
        numerator: [lists]; 0, with a gradient, for a list that does not count.
        denominator: [lists], without a gradient: 1 for a list that counts, or its number of pairs for a mean over
            pairs; 0 for a list that does not count.
        reduction: "sum" when the value of a batch is the plain sum, and `denominator` is only informative.
    """

    numerator: Tensor
    denominator: Tensor
    reduction: BatchReduction = "mean"

    def reduce_lists(self, reduction: Reduction | None = None, weights: Tensor | None = None) -> Tensor:
        """The loss of these lists.

        Args:
            reduction: "mean" Σ w · numerator / Σ w · denominator, "sum" Σ w · value, "none" w · value of each list,
                where `value` is what the loss gives for a list alone; None: this loss's own reduction.
            weights: w, at least 0, [lists]; None: all 1.

        Returns:
            A scalar, or [lists] for "none"; 0, with a gradient, where no list counts.
        """
        reduction = self.reduction if reduction is None else reduction
        if reduction == "mean":
            return self._divide_sums(weights)
        # Denominators are whole numbers: one below 1 is that of a list that does not count.
        mean = self.reduction == "mean"
        values = self.numerator / self.denominator.clamp(min=1) if mean else self.numerator
        values = values if weights is None else values * weights
        return values if reduction == "none" else values.sum()

    def _divide_sums(self, weights: Tensor | None) -> Tensor:
        """Σ w · numerator / Σ w · denominator, or 0 where the denominator is."""
        if weights is None:
            return self.numerator.sum() / self.denominator.sum().clamp(min=1)
        # Both are multiplied, so that a list of weight 2 is the same as that list twice.
        total = (self.denominator * weights).sum()
        return (self.numerator * weights).sum() / torch.where(total > 0, total, 1)
