"""A better first stage inside a ranker: residual adapters on both embeddings, and less weight for hubs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDES = ("query", "candidate")
MATRICES = ("inner", "inner_bias", "outer", "outer_bias")


@dataclass(frozen=True)
class Adapted:
    """Candidates as every member sees them.

    Attributes:
        embeddings: unit length, [members, items, d].
        hubness: what a member takes off each candidate's cosine, [members, items].
    """

    embeddings: Tensor
    hubness: Tensor


class Refinement(nn.Module):
    """A similarity of adapted embeddings, in which hubs count less.

    Definition: the mean over members of a(q)·b(c) − hub · h(c). The adapters are a(x) = (x + B·gelu(A·x)) at unit
    length, and b likewise with matrices of its own. h(c) is the mean of the largest `neighbours` values of a(p)·b(c)
    over a bank of training queries p: a candidate that is near many queries says less about each of them.

    The weights are buffers: they are learned before the ranker (`xmrank.training.adapters`) and then stay as they are.
    A module that nothing was loaded into has adapters that change nothing and an empty bank.

    Sources: the correction, Conneau et al., "Word translation without parallel data", ICLR 2018, eq. 5 (CSLS); with a
        bank of training queries, Bogolin et al., "Cross modal retrieval with querybank normalisation", CVPR 2022.
    """

    bank: Tensor

    def __init__(self, dimensions: int, *, members: int, width: int, bank: int, neighbours: int, hub: float) -> None:
        super().__init__()
        self.members, self.neighbours, self.hub = members, neighbours, hub
        shapes = {
            "inner": (members, dimensions, width),
            "inner_bias": (members, 1, width),
            "outer": (members, width, dimensions),
            "outer_bias": (members, 1, dimensions),
        }
        for side in SIDES:
            for name in MATRICES:
                self.register_buffer(f"{side}_{name}", torch.zeros(shapes[name]))
        self.register_buffer("bank", torch.zeros(members, bank, dimensions))

    def queries(self, x: Tensor) -> Tensor:
        """Queries as every member sees them, [items, d] → [members, items, d]."""
        return self._adapt("query", x)

    def candidates(self, x: Tensor) -> Adapted:
        """Candidates as every member sees them, [items, d]."""
        embeddings = self._adapt("candidate", x)
        count = min(self.neighbours, self.bank.shape[1])
        if not count or not self.hub:
            return Adapted(embeddings, embeddings.new_zeros(embeddings.shape[:2]))
        near = (embeddings @ self.bank.transpose(1, 2)).topk(count, -1, sorted=False).values
        return Adapted(embeddings, self.hub * near.mean(-1))

    def forward(self, query: Tensor, candidates: Tensor) -> Tensor:
        """The similarity, [lists, items], of query [lists, d] and candidates [lists, items, d]."""
        lists, items, dimensions = candidates.shape
        asked, found = self.queries(query), self.candidates(candidates.reshape(-1, dimensions))
        embeddings = found.embeddings.view(self.members, lists, items, dimensions)
        cosine = (embeddings @ asked[..., None]).squeeze(-1)
        return (cosine - found.hubness.view(self.members, lists, items)).mean(0)

    def _adapt(self, side: str, x: Tensor) -> Tensor:
        return adapt(x.to(self.bank.dtype), [getattr(self, f"{side}_{name}") for name in MATRICES])


def adapt(x: Tensor, matrices: Sequence[Tensor], drop: float = 0.0) -> Tensor:
    """x + B·gelu(A·x) at unit length, for every member.

    Args:
        x: [items, d], or [members, items, d] where each member has its own.
        matrices: A [members, d, width] and its bias [members, 1, width], B [members, width, d] and its bias
            [members, 1, d].
        drop: share of the hidden values that are dropped, from torch's global generator.

    Returns:
        [members, items, d].
    """
    inner, inner_bias, outer, outer_bias = matrices
    hidden = F.dropout(F.gelu(x @ inner + inner_bias), drop, training=drop > 0)
    return F.normalize(x + hidden @ outer + outer_bias, dim=-1)
