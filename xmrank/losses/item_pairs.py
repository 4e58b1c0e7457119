"""Pairs of items of a list, the first of which is relevant: the quadratic part of every loss that compares items."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from xmrank.losses.list_batch import ListBatch, on_host


@dataclass(frozen=True)
class ItemPairs:
    """All pairs (i, j) of a list in which i may have a label above 0.

    Only a relevant item can be above another one or have a gain, so the axis of i is as long as the largest number of
    relevant items of a list, P, and not n. On an accelerator P is n: finding the number would wait for the device.
    An i that is not relevant (P is one number for all lists) is above nothing and has no gain.

    Attributes:
        batch: the lists.
        first: position of each i in its list, int64 [lists, P]; every relevant item once.
    """

    batch: ListBatch
    first: Tensor

    @classmethod
    def from_batch(cls, batch: ListBatch) -> Self:
        """The pairs of every list of a batch."""
        relevant = batch.labels > 0
        if not on_host(relevant):
            return cls(batch, torch.arange(batch.items, device=relevant.device).expand_as(relevant))
        # The longest list of relevant items decides; shorter ones are filled with items that are not relevant.
        width = int(relevant.sum(1).max()) if len(relevant) else 0
        # Relevant items first, in the order of their positions; bool tensors cannot be sorted.
        order = relevant.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        return cls(batch, order[:, :width])

    def first_values(self, values: Tensor) -> Tensor:
        """The values [lists, items] of each i, [lists, P, 1]."""
        return values.gather(1, self.first).unsqueeze(2)

    def second_values(self, values: Tensor) -> Tensor:
        """The values [lists, items] of each j, [lists, 1, items]."""
        return values.unsqueeze(1)

    def value_differences(self, values: Tensor) -> Tensor:
        """Value of i minus value of j, [lists, P, items]."""
        return self.first_values(values) - self.second_values(values)

    def both_true(self, kept: Tensor) -> Tensor:
        """True where `kept` [lists, items] is so for both i and j, [lists, P, items]."""
        return self.first_values(kept) & self.second_values(kept)

    def ordered_pairs(self) -> Tensor:
        """True where j is real and y_i > y_j, [lists, P, items]; i is then real too."""
        # Padding has label 0, so it is never above anything; it must be kept from being below something.
        above = self.first_values(self.batch.labels) > self.second_values(self.batch.labels)
        return above & self.second_values(self.batch.mask)
