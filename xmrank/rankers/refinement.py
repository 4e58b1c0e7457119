"""A better first stage inside a ranker: residual adapters on both embeddings, less weight for hubs, and a memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmrank.rankers.key_value_memory import KeyValueMemory

SIDES = ("query", "candidate")
MATRICES = ("inner", "inner_bias", "outer", "outer_bias")


@dataclass(frozen=True)
class RefinedCandidates:
    """Candidates as every view sees them.

    Attributes:
        embeddings: unit length, [views, items, d].
        hubness: [views, items].
    """

    embeddings: Tensor
    hubness: Tensor


class Refinement(nn.Module):
    """A similarity of several views of the embeddings, in which hubs count less.

    Definition: the sum over views of w · a(q)·b(c) − u · h(c). The views are the members, where a(x) =
    (x + B·gelu(A·x)) at unit length is an adapter, and b likewise with matrices of its own, and the memory, if there is
    one (`Memory`). h(c) is the mean of the largest ``neighbours`` values of a(p)·b(c) over a bank of training queries
    p: a candidate that is near many queries says less about each of them. The members share one w and one u equally; at
    the start w is 1 and u is ``hub``, and for the memory ``recall`` and ``recall`` · ``hub``.

    All values are buffers: they are learned before the ranker (`xmrank.train.adapters`) and then stay as they are.
    A module that nothing was loaded into has adapters that change nothing and empty banks.

    Sources: the correction, Conneau et al., "Word translation without parallel data", ICLR 2018, eq. 5 (CSLS); with a
        bank of training queries, Bogolin et al., "Cross modal retrieval with querybank normalisation", CVPR 2022.
    """

    weights: Tensor
    """w and u of the members, then those of the memory, [2, 2]."""
    bank: Tensor

    def __init__(
        self,
        dimensions: int,
        *,
        members: int,
        width: int,
        bank: int,
        neighbours: int,
        hub: float,
        memory: KeyValueMemory | None = None,
        recall: float = 0.0,
    ) -> None:
        super().__init__()
        self.members, self.width, self.neighbours, self.memory = members, width, neighbours, memory
        self.register_buffer("weights", torch.tensor([[1.0, hub], [recall, recall * hub]]))
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

    @property
    def view_weights(self) -> Tensor:
        """w and u of every view, [views, 2]."""
        members = self.weights[:1].expand(self.members, 2) / self.members
        return members if self.memory is None else torch.cat([members, self.weights[1:]])

    def adapted(self, side: str, x: Tensor) -> Tensor:
        """What the members make of a side's embeddings, [items, d] → [members, items, d]."""
        return adapt(x.to(self.bank.dtype), [getattr(self, f"{side}_{name}") for name in MATRICES])

    def queries(self, x: Tensor) -> Tensor:
        """Queries as every view sees them, [items, d] → [views, items, d]."""
        seen = self.adapted("query", x)
        return seen if self.memory is None else torch.cat([seen, self.memory.queries(x.to(seen.dtype))[None]])

    def candidates(self, x: Tensor) -> RefinedCandidates:
        """Candidates as every view sees them, [items, d]."""
        seen, banks = self.adapted("candidate", x), self.bank
        if self.memory is not None:
            seen = torch.cat([seen, self.memory.candidates(x.to(seen.dtype))[None]])
            banks = torch.cat([banks, self.memory.bank[None]])
        count = min(self.neighbours, banks.shape[1])
        if not count:
            return RefinedCandidates(seen, seen.new_zeros(seen.shape[:2]))
        near = (seen @ banks.transpose(1, 2)).topk(count, -1, sorted=False).values
        return RefinedCandidates(seen, near.mean(-1))

    def forward(self, query: Tensor, candidates: Tensor) -> Tensor:
        """The similarity, [lists, items], of query [lists, d] and candidates [lists, items, d]."""
        lists, items, dimensions = candidates.shape
        asked, found = self.queries(query), self.candidates(candidates.reshape(-1, dimensions))
        embeddings = found.embeddings.view(-1, lists, items, dimensions)
        cosine = (embeddings @ asked[..., None]).squeeze(-1)
        of_cosine, of_hubness = self.view_weights.T
        hubness = found.hubness.view(-1, lists, items)
        return torch.tensordot(of_cosine, cosine, 1) - torch.tensordot(of_hubness, hubness, 1)

    def apart(self, member: int, images: Tensor) -> "Refinement":
        """One member, and the memory without the captions of some images; the memory's bank is empty."""
        memory = self.memory.without(images) if self.memory is not None else None
        made = Refinement(
            self.bank.shape[2],
            members=1,
            width=self.width,
            bank=self.bank.shape[1],
            neighbours=self.neighbours,
            hub=0.0,
            memory=memory,
        ).to(self.bank.device)
        made.weights.copy_(self.weights)
        for name in ("bank", *(f"{side}_{matrix}" for side in SIDES for matrix in MATRICES)):
            getattr(made, name).copy_(getattr(self, name)[member : member + 1])
        return made


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
