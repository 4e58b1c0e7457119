"""Cross attention: the words of a text attend to the regions of an image."""

import torch
from torch import Tensor, nn

from xmrank.rankers.layers import Dropout, make_linear
from xmrank.rankers.list_tokens import SideTokens
from xmrank.rankers.parameters import CrossAttentionParameters, TokenSizes
from xmrank.rankers.ranker import is_all_real
from xmrank.rankers.refinement import Refinement
from xmrank.rankers.token_ranker import TokenRanker, fill_empty_items


class CrossAttentionRanker(TokenRanker):
    """v = Σ_w a_w (q_w ∘ c_w), over the words w of the text; c_w is the word after it has attended to the regions.

    a is a softmax over the words, of a learned linear layer on q_w. Keys and values of an image are computed once,
    however many texts it is compared with; the attention is computed for every pair.

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
        """Keys and values of every region for all layers, [items, longest, 2 · layers · token_width]."""
        # As long as a normalised vector, of which attention layers read.
        encoded = super().encode_image(tokens, mask)
        made: Tensor = self.keys_and_values(encoded * encoded.shape[-1] ** 0.5)
        return made.to(encoded.dtype)

    def interact(self, words: SideTokens, regions: SideTokens) -> Tensor:
        """The words times what they are after the layers, summed over the words, [lists, items, token_width]."""
        mask = None if is_all_real(words.mask) else fill_empty_items(words.gather_mask())
        own, images = words.gather(), regions.gather()
        attend = None if is_all_real(regions.mask) else fill_empty_items(regions.gather_mask())
        weighted = own * self.weigh_words(own, mask)[..., None]
        # One of the two sides has no axis of items; broadcast over them.
        if own.dim() == 3:
            own, weighted = own[:, None], weighted[:, None]
        else:
            images, attend = images[:, None], None if attend is None else attend[:, None]
        states = own
        for layer, part in zip(self.cross_layers, images.chunk(len(self.cross_layers), -1), strict=True):
            states = layer(states, *part.chunk(2, -1), attend)
        return (weighted * states).sum(2)


class CrossAttentionLayer(nn.Module):
    """Adds to every word what it attends to among the regions."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.query = make_linear(width, width)
        self.output = make_linear(width, width)

    def forward(self, words: Tensor, keys: Tensor, values: Tensor, attend: Tensor | None) -> Tensor:
        """The words [lists, items, words, width], after one layer.

        Args:
            words: [lists, items or 1, words, width].
            keys, values: of the regions, [lists, items or 1, regions, width].
            attend: True where a region is real, [lists, items or 1, regions]; None: all are.
        """
        query, key, value = (self._split_heads(part) for part in (self.query(self.norm(words)), keys, values))
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if attend is not None:
            logits = logits.masked_fill(~attend[:, :, None, None], -torch.inf)
        attended = self.dropout(logits.softmax(-1)) @ value
        output: Tensor = words + self.dropout(self.output(attended.transpose(2, 3).flatten(3)))
        return output

    def _split_heads(self, x: Tensor) -> Tensor:
        """[lists, items, tokens, width] → [lists, items, heads, tokens, width / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(2, 3)
