"""Cross attention: the words of a text attend to the regions of an image."""

import torch
from torch import Tensor, nn

from xmrank.rankers.layers import Dropout, make_linear, zero_layer_
from xmrank.rankers.list_tokens import SideTokens
from xmrank.rankers.parameters import CrossAttentionParameters, TokenSizes
from xmrank.rankers.ranker import is_all_real
from xmrank.rankers.refinement import Refinement
from xmrank.rankers.token_ranker import TokenRanker, fill_empty_items


class CrossAttentionRanker(TokenRanker):
    """m_w = Σ_p softmax_p(q_w·p/√d) p over the image's regions p, plus what layers of multi-head attention add to it.

    The layers start at 0. What they need of an image, keys and values, is computed once, however many texts it is
    compared with; the attention is computed for every pair.

    Sources: Lee et al., "Stacked cross attention for image-text matching", ECCV 2018 (a word is compared with what it
        attends to); Li et al., "Align before fuse", NeurIPS 2021 (layers of multi-head cross attention).
    """

    parameters_type = CrossAttentionParameters

    def __init__(
        self, parameters: CrossAttentionParameters, dimensions: int, refinement: Refinement | None, sizes: TokenSizes
    ) -> None:
        super().__init__(parameters, dimensions, refinement, sizes)
        width, layers = parameters.token_width, parameters.cross_layers
        # Of all layers at once: keys and values depend on the image alone.
        self.keys_and_values = make_linear(width, 2 * layers * width, stacked=2 * layers)
        self.cross_layers = nn.ModuleList(
            CrossAttentionLayer(width, parameters.token_heads, parameters.token_dropout) for _ in range(layers)
        )

    def encode_image(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Every region, and its keys and values for all layers, [items, longest, (1 + 2 · layers) · token_width]."""
        encoded = super().encode_image(tokens, mask)
        return torch.cat([encoded, self.keys_and_values(encoded).to(encoded.dtype)], -1)

    def match_words(self, words: Tensor, regions: SideTokens) -> Tensor:
        """What every word attends to, [lists, items, words, token_width]."""
        images = regions.gather()
        attend = None if is_all_real(regions.mask) else fill_empty_items(regions.gather_mask())
        # One of the two sides has no axis of items; broadcast over them.
        if words.dim() == 3:
            words = words[:, None]
        else:
            images, attend = images[:, None], None if attend is None else attend[:, None]
        own, *keys_and_values = images.split(self.token_width, -1)
        matched = attend_regions(words, own, own, attend)
        for number, layer in enumerate(self.cross_layers):
            keys, values = keys_and_values[2 * number : 2 * number + 2]
            matched = matched + layer(words + matched, keys, values, attend)
        return matched


class CrossAttentionLayer(nn.Module):
    """What every word attends to among the regions, by several heads; 0 at first."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.query = make_linear(width, width)
        self.output = make_linear(width, width)
        zero_layer_(self.output)

    def forward(self, words: Tensor, keys: Tensor, values: Tensor, attend: Tensor | None) -> Tensor:
        """[lists, items, words, width].

        Args:
            words: [lists, items, words, width].
            keys, values: of the regions, [lists, items or 1, regions, width].
            attend: True where a region is real, [lists, items or 1, regions]; None: all are.
        """
        query, key, value = (self._split_heads(part) for part in (self.query(self.norm(words)), keys, values))
        attended = attend_regions(query, key, value, None if attend is None else attend[:, :, None])
        output: Tensor = self.output(self.dropout(attended).transpose(2, 3).flatten(3))
        return output.to(words.dtype)

    def _split_heads(self, x: Tensor) -> Tensor:
        """[lists, items, tokens, width] → [lists, items, heads, tokens, width / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(2, 3)


def attend_regions(query: Tensor, keys: Tensor, values: Tensor, attend: Tensor | None) -> Tensor:
    """Softmax attention, softmax(query·keys/√width)·values, [..., words, width].

    Args:
        query: [..., words, width].
        keys, values: [..., regions, width]; leading dimensions broadcast.
        attend: True where a region is real, [..., regions]; None: all are.
    """
    logits = (query * query.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    if attend is not None:
        logits = logits.masked_fill(~attend[..., None, :], -torch.inf)
    return logits.softmax(-1) @ values
