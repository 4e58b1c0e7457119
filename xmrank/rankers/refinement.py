"""The refined similarity inside a ranker: adapters on both embeddings, a hubness correction, a key–value memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmrank.rankers.key_value_memory import KeyValueMemory
from xmrank.rankers.parameters import RefinementParameters, RefinementSizes, as_json

SIDES = ("query", "candidate")
MATRICES = ("inner", "inner_bias", "outer", "outer_bias")


@dataclass(frozen=True)
class RefinedCandidates:
    """Candidates as each view represents them.

    Attributes:
        embeddings: unit length, [views, items, d].
        hubness: [views, items].
    """

    embeddings: Tensor
    hubness: Tensor


class Refinement(nn.Module):
    """A similarity from several views of the embeddings, corrected for hubness.

    Definition: the sum over views of w · a(q)·b(c) − u · h(c). The views are the ensemble members, where a(x) =
    (x + B·gelu(A·x)) at unit length is an adapter, and b likewise with matrices of its own; and the key–value memory,
    if there is one. h(c) is the hubness of a candidate: the mean of the largest ``neighbours`` values of a(p)·b(c) over
    a bank of training queries p. A candidate that is similar to many queries says less about each of them. The members
    share w and u in equal parts. Initially w is 1 and u is ``hubness_weight`` for the members; for the memory they are
    ``memory_weight`` and ``memory_weight`` · ``hubness_weight``.

    All values are buffers: they are learned before the ranker is trained, and stay fixed after that. As long as nothing
    is loaded, the adapters change nothing and the banks hold zeros.

    Args:
        dimensions: length d of an embedding.
        parameters: members, sizes of the adapters, weights.
        sizes: of the buffers that depend on the training data.

    Sources: the correction, Conneau et al., "Word translation without parallel data", ICLR 2018, eq. 5 (CSLS); with a
        bank of training queries, Bogolin et al., "Cross modal retrieval with querybank normalisation", CVPR 2022.
    """

    fusion_weights: Tensor
    """w and u of the members, then those of the memory, [2, 2]."""
    bank: Tensor
    """Training queries of each member, [members, bank, d]."""

    def __init__(self, dimensions: int, parameters: RefinementParameters, sizes: RefinementSizes) -> None:
        super().__init__()
        self.hyperparameters, self.sizes, self.members = parameters, sizes, parameters.members
        # Its weights in the fusion are kept in any case, so that they can be copied between refinements.
        self.memory = KeyValueMemory(dimensions, parameters, sizes) if sizes.memory_pairs else None
        hub, memory = parameters.hubness_weight, parameters.memory_weight
        self.register_buffer("fusion_weights", torch.tensor([[1.0, hub], [memory, memory * hub]]))
        members, width = parameters.members, parameters.width
        shapes = {
            "inner": (members, dimensions, width),
            "inner_bias": (members, 1, width),
            "outer": (members, width, dimensions),
            "outer_bias": (members, 1, dimensions),
        }
        # Buffers and not parameters: the optimiser of the ranker must not change them.
        for side in SIDES:
            for name in MATRICES:
                self.register_buffer(f"{side}_{name}", torch.zeros(shapes[name]))
        self.register_buffer("bank", torch.zeros(members, sizes.bank, dimensions))

    @property
    def view_weights(self) -> Tensor:
        """w and u of every view, [views, 2]."""
        # The mean over members, and the memory as one more view.
        members = self.fusion_weights[:1].expand(self.members, 2) / self.members
        return members if self.memory is None else torch.cat([members, self.fusion_weights[1:]])

    def describe(self) -> dict[str, Any]:
        """Parameters and sizes as values that JSON keeps."""
        return {"parameters": as_json(self.hyperparameters), "sizes": as_json(self.sizes)}

    def adapt_side(self, side: str, x: Tensor) -> Tensor:
        """One side's embeddings after the adapters of each member, [items, d] → [members, items, d]."""
        return apply_adapters(x.to(self.bank.dtype), [getattr(self, f"{side}_{name}") for name in MATRICES])

    def embed_queries(self, x: Tensor) -> Tensor:
        """Queries as each view represents them, [items, d] → [views, items, d]."""
        adapted = self.adapt_side("query", x)
        if self.memory is None:
            return adapted
        return torch.cat([adapted, self.memory.embed_queries(x.to(adapted.dtype))[None]])

    def embed_candidates(self, x: Tensor) -> RefinedCandidates:
        """Candidates as each view represents them, [items, d], and their hubness there."""
        embeddings, banks = self.adapt_side("candidate", x), self.bank
        if self.memory is not None:
            embeddings = torch.cat([embeddings, self.memory.embed_candidates(x.to(embeddings.dtype))[None]])
            banks = torch.cat([banks, self.memory.bank[None]])
        # A bank with fewer queries than neighbours counts as a whole; without a bank there is no hubness.
        count = min(self.hyperparameters.neighbours, banks.shape[1])
        if not count:
            return RefinedCandidates(embeddings, embeddings.new_zeros(embeddings.shape[:2]))
        # CSLS: the mean cosine with the nearest queries of the bank.
        nearest = (embeddings @ banks.transpose(1, 2)).topk(count, -1, sorted=False).values
        return RefinedCandidates(embeddings, nearest.mean(-1))

    def forward(self, query: Tensor, candidates: Tensor) -> Tensor:
        """The refined similarity, [lists, items], of query [lists, d] and candidates [lists, items, d]."""
        lists, items, dimensions = candidates.shape
        # All candidates of the batch at once, as if they were one gallery.
        queries = self.embed_queries(query)
        refined = self.embed_candidates(candidates.reshape(-1, dimensions))
        embeddings = refined.embeddings.view(-1, lists, items, dimensions)
        cosine = (embeddings @ queries[..., None]).squeeze(-1)
        hubness = refined.hubness.view(-1, lists, items)
        # The weighted sum over views.
        cosine_weight, hubness_weight = self.view_weights.T
        return torch.tensordot(cosine_weight, cosine, 1) - torch.tensordot(hubness_weight, hubness, 1)

    @torch.no_grad()
    def reset_(self) -> None:
        """Make the refined similarity the first stage's: adapters that change nothing, no hubness, no memory."""
        for side in SIDES:
            getattr(self, f"{side}_outer").zero_()
            getattr(self, f"{side}_outer_bias").zero_()
        self.fusion_weights.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))

    def take_member(self, member: int, images: Tensor) -> "Refinement":
        """One member alone, for out-of-fold similarities: with the memory, less the captions of some images.

        Args:
            member: index of the member.
            images: rows of the memory's images whose captions are left out, int64.

        Returns:
            A refinement with one member; the bank of its memory holds zeros.
        """
        parameters, sizes = replace(self.hyperparameters, members=1), replace(self.sizes, memory_pairs=0)
        single = Refinement(self.bank.shape[2], parameters, sizes).to(self.bank.device)
        # The fusion weights stay those of the whole: a single member takes the part of all.
        single.memory = None if self.memory is None else self.memory.drop_images(images)
        single.fusion_weights.copy_(self.fusion_weights)
        for name in ("bank", *(f"{side}_{matrix}" for side in SIDES for matrix in MATRICES)):
            getattr(single, name).copy_(getattr(self, name)[member : member + 1])
        return single


def apply_adapters(x: Tensor, matrices: Sequence[Tensor], drop: float = 0.0) -> Tensor:
    """Apply the adapters of all members: x + B·gelu(A·x) at unit length.

    Args:
        x: [items, d], or [members, items, d] where each member has its own.
        matrices: A [members, d, width] and its bias [members, 1, width], B [members, width, d] and its bias
            [members, 1, d].
        drop: dropout probability of the hidden values, drawn from torch's global generator.

    Returns:
        [members, items, d].
    """
    inner, inner_bias, outer, outer_bias = matrices
    # A residual adapter: with B = 0 it changes nothing.
    hidden = F.dropout(F.gelu(x @ inner + inner_bias), drop, training=drop > 0)
    return F.normalize(x + hidden @ outer + outer_bias, dim=-1)
