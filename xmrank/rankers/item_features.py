"""Item features and the first linear layer, computed together so that the features are never stored.

The layer is y = W·x + b on x = [q ; c ; q∘c ; |q − c| ; cosine columns]. W is one matrix, applied by column blocks:
W·x = W_q·q + W_c·c + ..., so the query's part is computed once per list instead of once per item.
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
"""Added to the variance of a list's similarities, so that differences far below 1e-4 have no effect."""


class ItemFeatures(nn.Module):
    """The item features of a list and the first linear layer on them.

    Args:
        dimensions: length d of an embedding.
        outputs: outputs of the layer.
        features: names of `parameters.FEATURES`, in their order.
        norm: layer-normalise the embedding blocks together, before the layer.
        dropout: dropout probability of the elements of an embedding block, before the normalisation.
    """

    def __init__(self, dimensions: int, outputs: int, features: tuple[str, ...], *, norm: bool, dropout: float) -> None:
        super().__init__()
        self.outputs, self.features, self.dropout = outputs, features, Dropout(dropout)
        self.blocks = len(set(features) - {"cosine"}) + ("concat" in features)  # concat is two: query and candidate
        columns = self.blocks * dimensions
        self.column_sizes = [dimensions] * self.blocks + [2] * ("cosine" in features)
        # The cosine is two columns, raw and standardised, and is never normalised.
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
            projected: whether the candidates are already projected.
        """
        weights, bias = self._split_weights()
        hidden = bias  # all there is with the cosine alone
        if projected:
            self.require_projectable()
            hidden = self._combine_parts([self._project_block(query[:, None], weights[0]), candidates], weights, bias)
        elif self.blocks:
            # One product per block, instead of one with the concatenated blocks.
            blocks = self._list_blocks(query[:, None], candidates)
            parts = [self._project_block(block, weight) for block, weight in zip(blocks, weights, strict=False)]
            hidden = self._combine_parts(parts, weights, bias)
        if "cosine" in self.features:
            hidden = hidden + F.linear(cosine_columns(similarity, mask), weights[-1])
        return hidden

    def project_candidates(self, table: Tensor) -> Tensor:
        """The candidates' part of the layer, [N, d] → [N, projected_size]; see `Ranker.project_candidates`."""
        self.require_projectable()
        weights, _ = self._split_weights()
        return self._project_block(table.to(self.weight.dtype), weights[1])

    def require_projectable(self) -> None:
        """Raise ValueError if a candidate's part of the layer depends on the query."""
        if "concat" not in self.features or {"product", "difference"} & set(self.features):
            raise ValueError(
                "candidates can be projected ahead of the query with the features concat and cosine only, "
                f"not with {', '.join(self.features)}"
            )

    def _list_blocks(self, query: Tensor, candidates: Tensor) -> Iterator[Tensor]:
        """The embedding blocks in the order of the columns: the query's [lists, 1, d], the others [lists, items, d]."""
        if "concat" in self.features:
            yield query
            yield candidates
        if "product" in self.features:
            yield query * candidates
        if "difference" in self.features:
            yield (query - candidates).abs()

    def _split_weights(self) -> tuple[tuple[Tensor, ...], Tensor]:
        """The column blocks of the weight, and the bias, with scale and shift of the normalisation folded in."""
        weights = self.weight.split(self.column_sizes, dim=1)
        if self.norm_weight is None or self.norm_bias is None:
            return weights, self.bias
        # W·(scale ∘ z + shift) + b = (W ∘ scale)·z + (b + W·shift)
        bias = self.bias + self.weight[:, : len(self.norm_bias)] @ self.norm_bias
        scales = self.norm_weight.chunk(self.blocks)
        scaled = tuple(weight * scale for weight, scale in zip(weights, scales, strict=False))
        return (*scaled, *weights[self.blocks :]), bias

    def _project_block(self, block: Tensor, weight: Tensor) -> Tensor:
        """One block's part of the layer; with normalisation, two more columns with the block's mean and variance."""
        block = self.dropout(block)
        part = F.linear(block, weight)
        if self.norm_weight is None:
            return part
        variance, mean = torch.var_mean(block, -1, correction=0, keepdim=True)
        return torch.cat([part, mean, variance], -1)

    def _combine_parts(self, parts: list[Tensor], weights: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        """The sum of the parts; with normalisation W·(x − mean)/deviation from W_k·x_k and their moments.

        All blocks have the same length. So the mean of all columns is the mean of the blocks' means, and their variance
        is the mean of the blocks' variances plus the variance of the blocks' means.
        """
        if self.norm_weight is None:
            # The bias first: it is then added to the query's part, once per list.
            return _sum_parts([bias, *parts])
        products, means, variances = zip(*(part.split([self.outputs, 1, 1], -1) for part in parts), strict=True)
        mean = _sum_parts(means) / self.blocks
        spread = _sum_parts(variances) + _sum_parts([(block_mean - mean).square() for block_mean in means])
        deviation = (spread / self.blocks + NORM_EPS).sqrt()
        # The mean is subtracted from every column, hence once for each column's weight.
        weight_sum = _sum_parts([weight.sum(1) for weight in weights[: self.blocks]])
        return (_sum_parts(products) - mean * weight_sum) / deviation + bias


def _sum_parts(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors that broadcast against each other, in the order given."""
    return functools.reduce(torch.add, parts)


def cosine_columns(similarity: Tensor, mask: Tensor | None, floor: float = VARIANCE_FLOOR) -> Tensor:
    """The similarity, raw and standardised over the real items of its list (population variance), [lists, items, 2].

    ``floor`` is added to the variance. The values at padding are finite and have no meaning. If all similarities of a
    list are equal, the second column is 0 except for rounding.
    """
    real = torch.ones_like(similarity) if mask is None else mask.to(similarity.dtype)
    count = real.sum(-1, keepdim=True).clamp(min=1)
    # Moments over real items only; an empty list divides by 1.
    centred = similarity - (similarity * real).sum(-1, keepdim=True) / count
    variance = (centred.square() * real).sum(-1, keepdim=True) / count
    return torch.stack([similarity, centred * (variance + floor).rsqrt()], -1)


def first_stage_rank(similarity: Tensor, mask: Tensor | None) -> Tensor:
    """Each item's rank by descending similarity, from 0, [lists, items] int64.

    Ties keep the order of the items; padding comes last.
    """
    keys = similarity if mask is None else similarity.masked_fill(~mask, -torch.inf)
    # The inverse of the sorting permutation: the rank of each item.
    return keys.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
