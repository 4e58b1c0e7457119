"""A pre-norm transformer encoder over the items of a list.

Source: Vaswani et al., "Attention is all you need", NeurIPS 2017; for ranking, Pobrotyn et al., "Context-aware learning
to rank with self-attention", SIGIR eCom 2020.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmrank.rankers.layers import Dropout, make_linear

SHORT = 128
"""Number of items up to which plain matrix products are faster on a CPU than torch's fused kernel."""


class UnbiasedLayerNorm(nn.Module):
    """Layer norm that divides by the unbiased standard deviation plus eps: weight·(x − mean)/(deviation + eps) + bias.

    `nn.LayerNorm` divides by √(biased variance + eps). This variant reproduces the models of allRank exactly.

    Source: Rush, "The annotated transformer", 2018, class LayerNorm.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        output: Tensor = _UnbiasedNorm.apply(x, self.weight, self.bias, self.eps)[0]
        return output


class _UnbiasedNorm(torch.autograd.Function):
    """weight·(x − mean)/(deviation + eps) + bias, computed from torch's layer norm in a third of the time.

    Torch gives p = weight·(x − mean)/b, where b² is the biased variance, and 1/b. The deviation is c·b with
    c = √(n/(n − 1)), so the result is p·f + bias with f = 1/(c + eps/b), and f's own slope adds a term to the gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        # 1e-24 instead of 0: for a constant vector, the gradient of the square root would be infinite.
        scaled, mean, inverse = torch.native_layer_norm(x, weight.shape, weight, None, 1e-24)
        factor = 1 / (math.sqrt(len(weight) / max(1, len(weight) - 1)) + eps * inverse)
        return torch.addcmul(bias, scaled, factor), scaled, mean, inverse, factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, eps = inputs
        ctx.eps = eps
        ctx.save_for_backward(x, weight, *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        # Only the first output has a gradient.
        if gradient is None:
            return None, None, None, None
        x, weight, scaled, mean, inverse, factor = ctx.saved_tensors
        of_x, of_weight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient * factor, x, weight.shape, mean, inverse, weight, None, [True, True, False]
        )
        # The gradient by way of f, which depends on x through 1/b.
        through_factor = (gradient * scaled).mean(-1, keepdim=True) * (ctx.eps * factor.square() * inverse.pow(3))
        of_x = torch.addcmul(of_x, x - mean, through_factor)
        return of_x, of_weight, gradient.flatten(0, -2).sum(0), None


LAYER_NORMS: dict[str, type[nn.Module]] = {"standard": nn.LayerNorm, "unbiased": UnbiasedLayerNorm}
"""Layer norms by their names in the parameters."""


class SelfAttention(nn.Module):
    """Multi-head attention among the items of a list, with the three projections fused into one."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.qkv = make_linear(width, 3 * width, stacked=3)
        self.output = make_linear(width, width)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """[lists, items, width] → the same; `attend` [lists, 1, 1, items] is True where an item may be attended to."""
        lists, items, width = x.shape
        by_head = (lists, items, self.heads, width // self.heads)
        parts = self.qkv(x).chunk(3, -1)
        # [lists, heads, items, width / heads] each
        query, key, value = (part.view(by_head).transpose(1, 2) for part in parts)
        attended = self._attend_items(query, key, value, attend)
        output: Tensor = self.output(attended.transpose(1, 2).reshape(lists, items, width))
        return output

    def _attend_items(self, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None) -> Tensor:
        """Attention by torch's fused kernel, except with dropout and for short lists on a CPU.

        The kernel's dropout would not use our generators. On a CPU, short lists are faster without it, especially in
        bfloat16. Long lists need the kernel, which never stores all pairs of items.
        """
        drops = self.training and self.dropout.probability > 0
        if not drops and (query.device.type != "cpu" or query.shape[2] > SHORT):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        # Once here, instead of in each of the products.
        query, key, value = (part.contiguous() for part in (query, key, value))
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if attend is not None:
            logits = logits.masked_fill(~attend, -torch.inf)
        attended: Tensor = self.dropout(logits.softmax(-1)) @ value
        return attended


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward layer, each with its input normalised, and dropout before the residual sum."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, layer_norm: str) -> None:
        super().__init__()
        self.attention_norm = LAYER_NORMS[layer_norm](width)
        self.attention = SelfAttention(width, heads, dropout)
        self.feed_forward_norm = LAYER_NORMS[layer_norm](width)
        self.widen = make_linear(width, feed_forward)
        self.narrow = make_linear(feed_forward, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """[lists, items, width] → the same."""
        x = x + self.dropout(self.attention(self.attention_norm(x), attend))
        # relu_ in place: nothing else reads its input.
        hidden = self.dropout(self.widen(self.feed_forward_norm(x)).relu_())
        output: Tensor = x + self.dropout(self.narrow(hidden))
        return output


class RankEncoding(nn.Module):
    """Adds an encoding of an item's first-stage rank: √width·x + table[rank].

    The last row is that of every rank from `max_rank` on. It starts at 0, so that lists longer than those in training
    get no random values there.

    Args:
        width: length of an item's vector.
        max_rank: number of ranks that have their own encoding.
        learned: train the table; otherwise it holds the sinusoids of Vaswani et al., section 3.5.
    """

    table: Tensor

    def __init__(self, width: int, max_rank: int, *, learned: bool) -> None:
        super().__init__()
        if learned:
            table = torch.zeros(max_rank + 1, width)
            nn.init.xavier_uniform_(table[:-1])
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", F.pad(make_sinusoids(max_rank, width), (0, 0, 0, 1)))

    def forward(self, x: Tensor, rank: Tensor) -> Tensor:
        """[lists, items, width] and ranks from 0, [lists, items] int64 → [lists, items, width]."""
        # The scale √width keeps the encoding from dominating the item, as in Vaswani et al., section 3.4.
        beyond, width = self.table.shape[0] - 1, self.table.shape[1]
        return math.sqrt(width) * x + F.embedding(rank.clamp(max=beyond), self.table)


def make_sinusoids(positions: int, width: int) -> Tensor:
    """Sines in the even columns and cosines in the odd ones, wavelengths 2π to 10000·2π, [positions, width]."""
    # In float64, then rounded: the angles of late positions are large.
    frequencies = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
    table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
    return table.to(torch.get_default_dtype())
