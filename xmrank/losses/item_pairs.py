"""Pairs of items of a list, the first of which is relevant: the quadratic part of every loss that compares items."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from xmrank.losses.list_batch import ListBatch, on_host


@dataclass(frozen=True)
class ItemPairs:
    """All pairs (i, j) of a list in which i may have a label above 0.

    Only a relevant item can be above another one or have a gain, so that the axis of i is as long as the largest number
    of relevant items of a list, P, and not n. On an accelerator P is n: finding the number would wait for the device.
    An i that is not relevant (P is one for all lists) is above nothing and has no gain.

    Attributes:
        slates: the lists.
        first: position of each i in its list, int64 [lists, P]; every relevant item once.
    """

    slates: ListBatch
    first: Tensor

    @classmethod
    def of(cls, slates: ListBatch) -> Self:
        relevant = slates.labels > 0
        if not on_host(relevant):
            return cls(slates, torch.arange(slates.items, device=relevant.device).expand_as(relevant))
        width = int(relevant.sum(1).max()) if len(relevant) else 0
        order = relevant.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        return cls(slates, order[:, :width])

    def above(self, values: Tensor) -> Tensor:
        """The values [lists, items] of each i, [lists, P, 1]."""
        return values.gather(1, self.first).unsqueeze(2)

    def below(self, values: Tensor) -> Tensor:
        """The values [lists, items] of each j, [lists, 1, items]."""
        return values.unsqueeze(1)

    def difference(self, values: Tensor) -> Tensor:
        """Value of i minus value of j, [lists, P, items]."""
        return self.above(values) - self.below(values)

    def both(self, kept: Tensor) -> Tensor:
        """True where both i and j are among `kept` [lists, items]."""
        return self.above(kept) & self.below(kept)

    def ordered(self) -> Tensor:
        """True where j is real and y_i > y_j; i is then real too."""
        return (self.above(self.slates.labels) > self.below(self.slates.labels)) & self.below(self.slates.mask)
