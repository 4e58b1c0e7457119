"""The tokens of a list batch: every query and every candidate once, however many lists hold it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class SideTokens:
    """The tokens of the queries, or of the candidates, of some lists.

    Attributes:
        values: of every item once, floating point [items of this side, longest, columns].
        mask: True where a token is real, bool [items of this side, longest].
        index: which of these items a query or candidate is, int64 [lists] or [lists, items]; 0 at padding.
        projected: whether the values are those of `TokenRanker.project_tokens`, instead of the store's.
    """

    values: Tensor
    mask: Tensor
    index: Tensor
    projected: bool = False

    def __getitem__(self, lists: slice) -> "SideTokens":
        """The same items, for some of the lists."""
        return replace(self, index=self.index[lists])

    def to(self, device: torch.device) -> "SideTokens":
        """The tokens on a device."""
        values, mask, index = (part.to(device) for part in (self.values, self.mask, self.index))
        return replace(self, values=values, mask=mask, index=index)

    @property
    def longest(self) -> int:
        """Tokens of an item, padding included."""
        return self.values.shape[1]

    def gather(self) -> Tensor:
        """The tokens of every query or candidate, [*index, longest, columns]."""
        # F.embedding gathers rows; on a CPU it is several times as fast as indexing.
        return F.embedding(self.index, self.values.flatten(1)).unflatten(-1, self.values.shape[1:])

    def gather_mask(self) -> Tensor:
        """Where these tokens are real, bool [*index, longest]."""
        # A gather of bytes, since an embedding of bool is refused.
        return F.embedding(self.index, self.mask.to(torch.uint8)).bool()

    def gather_chosen(self, chosen: Tensor) -> Tensor:
        """One token of each item for each word of another.

        Args:
            chosen: the token's position in its item, int64 [*index or broadcast, words].

        Returns:
            [lists, items, words, columns].
        """
        index = self.index if self.index.dim() == 2 else self.index[:, None]
        return F.embedding(index[..., None] * self.longest + chosen, self.values.flatten(0, 1))


@dataclass(frozen=True)
class ListTokens:
    """The tokens of a list batch, beside its embeddings.

    Attributes:
        query: tokens of the queries, with an index [lists].
        candidate: tokens of the candidates, with an index [lists, items].
    """

    query: SideTokens
    candidate: SideTokens

    @classmethod
    def of_lists(
        cls, query: Tensor, candidate: Tensor, query_mask: Tensor | None = None, candidate_mask: Tensor | None = None
    ) -> "ListTokens":
        """The tokens of lists that share no items, or one gallery.

        Args:
            query: floating point [lists, longest, width].
            candidate: floating point [lists, items, longest, width], or [items, longest, width] for all lists.
            query_mask, candidate_mask: True where a token is real, bool, of the shapes without width; None: all are.
        """
        lists, device = len(query), query.device
        query_mask = query.new_ones(query.shape[:2], dtype=torch.bool) if query_mask is None else query_mask
        if candidate_mask is None:
            candidate_mask = candidate.new_ones(candidate.shape[:-1], dtype=torch.bool)
        if candidate.dim() == 3:
            index = torch.arange(len(candidate), device=device).expand(lists, -1)
        else:
            index = torch.arange(lists * candidate.shape[1], device=device).view(lists, -1)
            candidate, candidate_mask = candidate.flatten(0, 1), candidate_mask.flatten(0, 1)
        own = SideTokens(query, query_mask, torch.arange(lists, device=device))
        return cls(own, SideTokens(candidate, candidate_mask, index))

    def __getitem__(self, lists: slice) -> "ListTokens":
        """The tokens of some of the lists."""
        return ListTokens(self.query[lists], self.candidate[lists])

    def to(self, device: torch.device) -> "ListTokens":
        """The tokens on a device."""
        return ListTokens(self.query.to(device), self.candidate.to(device))

    def require_fitting(self, similarity: Tensor) -> None:
        """Raise ValueError unless the tokens are those of lists with this similarity, [lists, items]."""
        shape = list(similarity.shape)
        for name, side, expected in (("query", self.query, shape[:1]), ("candidate", self.candidate, shape)):
            if side.values.dim() != 3 or not side.values.is_floating_point():
                raise ValueError(
                    f"{name} tokens must be floating point [items, longest, width], "
                    f"not {side.values.dtype} {list(side.values.shape)}"
                )
            if side.mask.dtype != torch.bool or side.mask.shape != side.values.shape[:2]:
                raise ValueError(
                    f"{name} token mask must be bool {list(side.values.shape[:2])}, "
                    f"not {side.mask.dtype} {list(side.mask.shape)}"
                )
            if side.index.dtype != torch.int64 or list(side.index.shape) != expected:
                raise ValueError(
                    f"{name} token index must be int64 {expected}, not {side.index.dtype} {list(side.index.shape)}"
                )
