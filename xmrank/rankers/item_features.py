"""Item features and the first linear layer, computed together so that neither is ever built whole.

The layer is y = W·x + b on x = [q ; c ; q∘c ; |q − c| ; cosine columns]. W is kept as one matrix and applied by column
blocks: W·x = W_q·q + W_c·c + ..., so that the query's part is computed once a list instead of once an item.
"""

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmrank.rankers.layers import Dropout, linear_init_

NORM_EPS = 1e-5
"""Added to the variance by the input normalisation, as `torch.nn.LayerNorm` does."""
VARIANCE_FLOOR = 1e-8
"""Added to the variance of a list's similarities: differences far below 1e-4 count as none."""


class ItemFeatures(nn.Module):
    """The item features of a list and the first linear layer on them.

    Args:
        dimensions: length d of an embedding.
        outputs: outputs of the layer.
        features: names among `parameters.FEATURES`, in that order.
        norm: whether the embedding blocks are layer-normalised together, ahead of the layer.
        dropout: probability of dropping an element of an embedding block, ahead of the normalisation.
    """

    def __init__(self, dimensions: int, outputs: int, features: tuple[str, ...], *, norm: bool, dropout: float) -> None:
        super().__init__()
        self.outputs, self.features, self.dropout = outputs, features, Dropout(dropout)
        self.blocks = len(set(features) - {"cosine"}) + ("concat" in features)  # concat is two: query and candidate
        columns = self.blocks * dimensions
        self.column_sizes = [dimensions] * self.blocks + [2] * ("cosine" in features)
        self.weight = nn.Parameter(torch.empty(outputs, sum(self.column_sizes)))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.norm_weight = nn.Parameter(torch.ones(columns)) if norm else None
        self.norm_bias = nn.Parameter(torch.zeros(columns)) if norm else None
        linear_init_(self.weight, self.bias)

    @property
    def projected_size(self) -> int:
        """Columns of a projected candidate: the layer's outputs and, with normalisation, the mean and variance."""
        return self.outputs + (2 if self.norm_weight is not None else 0)

    def forward(
        self, query: Tensor, candidates: Tensor, similarity: Tensor, mask: Tensor | None, *, projected: bool = False
    ) -> Tensor:
        """The first layer's outputs, [lists, items, outputs].

        Args:
            query: [lists, d].
            candidates: [lists, items, d], or with `projected` rows of `project_candidates`.
            similarity: first-stage similarity, [lists, items].
            mask: True where an item is real, [lists, items]; None: all are.
            projected: whether the candidates have gone through the layer already.
        """
        weights, bias = self._weights()
        hidden = bias
        if projected:
            self.require_projectable()
            hidden = self._combine([self._project(query[:, None], weights[0]), candidates], weights, bias)
        elif self.blocks:
            blocks = self._blocks(query[:, None], candidates)
            parts = [self._project(block, weight) for block, weight in zip(blocks, weights, strict=False)]
            hidden = self._combine(parts, weights, bias)
        if "cosine" in self.features:
            hidden = hidden + F.linear(cosine_columns(similarity, mask), weights[-1])
        return hidden

    def project_candidates(self, table: Tensor) -> Tensor:
        """The candidates' part of the layer, [N, d] → [N, projected_size]; see `Ranker.project_candidates`."""
        self.require_projectable()
        weights, _ = self._weights()
        return self._project(table.to(self.weight.dtype), weights[1])

    def require_projectable(self) -> None:
        """Raise ValueError where a candidate's part of the layer depends on the query."""
        if "concat" not in self.features or {"product", "difference"} & set(self.features):
            raise ValueError(
                "candidates can be projected ahead of the query with the features concat and cosine only, "
                f"not with {', '.join(self.features)}"
            )

    def _blocks(self, query: Tensor, candidates: Tensor) -> Iterator[Tensor]:
        """The embedding blocks in column order: [lists, 1, d] the query's, [lists, items, d] the others."""
        if "concat" in self.features:
            yield query
            yield candidates
        if "product" in self.features:
            yield query * candidates
        if "difference" in self.features:
            yield (query - candidates).abs()

    def _weights(self) -> tuple[tuple[Tensor, ...], Tensor]:
        """The weight by column blocks and the bias, the normalisation's scale and shift folded into them."""
        weights = self.weight.split(self.column_sizes, dim=1)
        if self.norm_weight is None or self.norm_bias is None:
            return weights, self.bias
        bias = self.bias + self.weight[:, : len(self.norm_bias)] @ self.norm_bias
        scales = self.norm_weight.chunk(self.blocks)
        scaled = tuple(weight * scale for weight, scale in zip(weights, scales, strict=False))
        return (*scaled, *weights[self.blocks :]), bias

    def _project(self, block: Tensor, weight: Tensor) -> Tensor:
        """One block's part of the layer; with normalisation, two more columns hold the block's mean and variance."""
        block = self.dropout(block)
        part = F.linear(block, weight)
        if self.norm_weight is None:
            return part
        variance, mean = torch.var_mean(block, -1, correction=0, keepdim=True)
        return torch.cat([part, mean, variance], -1)

    def _combine(self, parts: list[Tensor], weights: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        """The parts' sum, and with normalisation W·(x − mean)/deviation out of the parts W_k·x_k and their moments.

        The blocks have one length, so the mean of all columns is that of the blocks' means, and their variance is the
        mean of the blocks' variances plus the variance of the blocks' means.
        """
        if self.norm_weight is None:
            return _total([bias, *parts])  # the bias first: to the query's part it is added once a list
        products, means, variances = zip(*(part.split([self.outputs, 1, 1], -1) for part in parts), strict=True)
        mean = _total(means) / self.blocks
        spread = _total(variances) + _total([(block_mean - mean).square() for block_mean in means])
        deviation = (spread / self.blocks + NORM_EPS).sqrt()
        weight_sum = _total([weight.sum(1) for weight in weights[: self.blocks]])
        return (_total(products) - mean * weight_sum) / deviation + bias


def _total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors that broadcast against each other."""
    return functools.reduce(torch.add, parts)


def cosine_columns(similarity: Tensor, mask: Tensor | None) -> Tensor:
    """The similarity, raw and standardised over the real items of its list (population variance), [lists, items, 2].

    The values at padding are finite and mean nothing. Where a list's similarities are all equal,
    the second is 0 but for rounding.
    """
    real = torch.ones_like(similarity) if mask is None else mask.to(similarity.dtype)
    count = real.sum(-1, keepdim=True).clamp(min=1)
    centred = similarity - (similarity * real).sum(-1, keepdim=True) / count
    variance = (centred.square() * real).sum(-1, keepdim=True) / count
    return torch.stack([similarity, centred * (variance + VARIANCE_FLOOR).rsqrt()], -1)


def first_stage_rank(similarity: Tensor, mask: Tensor | None) -> Tensor:
    """Each item's place, from 0, when its list is sorted by descending similarity, [lists, items] int64.

    Ties break by item position; padding comes last.
    """
    keys = similarity if mask is None else similarity.masked_fill(~mask, -torch.inf)
    return keys.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
