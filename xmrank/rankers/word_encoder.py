"""The encoder of a text's words."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmrank.rankers.layers import Dropout, make_linear, zero_layer_
from xmrank.rankers.region_encoder import POSITION_SCALE, position_vectors
from xmrank.rankers.transformer import EncoderLayer

NUMBERS = 3
"""Numbers of a word beside its vector: logit bias, log prior and weight."""
RARE = -2.0
"""Initial logit bias: most words are in few images."""


class WordEncoder(nn.Module):
    """A word by itself: norm → linear → feed-forward layer. Then in its text: positions → encoder layers. Then norm →
    linear, and three numbers from linear layers of their own.

    The layers start at 0: at first a word's vector is the same in every text.

    Args:
        inputs: numbers in a token of the store.
        width: numbers in an encoded word.
        heads: attention heads of the layers.
        layers: encoder layers among the words of a text.
        positions: positions with a learned vector; all later ones share the last.
        dropout: dropout probability of the inputs, in the layers, and before the last linear layers.
    """

    def __init__(self, inputs: int, width: int, *, heads: int, layers: int, positions: int, dropout: float) -> None:
        super().__init__()
        self.width, self.dropout = width, Dropout(dropout)
        self.input_norm = nn.LayerNorm(inputs)
        self.input = make_linear(inputs, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.widen = make_linear(width, 4 * width)
        self.narrow = make_linear(4 * width, width)
        # Only the layers read positions.
        self.positions = nn.Parameter(torch.randn(positions, width) * POSITION_SCALE) if layers else None
        self.layers = nn.ModuleList(EncoderLayer(width, heads, 2 * width, dropout, "standard") for _ in range(layers))
        for layer in self.layers:
            zero_layer_(layer.attention.output)  # type: ignore[arg-type, union-attr]
            zero_layer_(layer.narrow)  # type: ignore[arg-type]
        self.output_norm = nn.LayerNorm(width)
        self.output = make_linear(width, width)
        self.bias, self.prior, self.weight = (nn.Linear(width, 1) for _ in range(NUMBERS))
        nn.init.constant_(self.bias.bias, RARE)
        # All words count the same at first.
        zero_layer_(self.weight)

    def forward(self, tokens: Tensor, mask: Tensor | None, *, in_context: bool = True) -> Tensor:
        """Tokens [items, longest, inputs] → [items, longest, width + 3]; the padding has no meaning.

        The columns after the vector are the bias of the word's logit, the logarithm of its prior probability, and its
        weight, between 0 and 2.

        Args:
            tokens: of the texts.
            mask: True where a word is real, [items, longest], at least one in each item; None: all are.
            in_context: whether a word attends to the other words of its text.
        """
        dtype = self.input.weight.dtype
        x = self.input(self.dropout(self.input_norm(tokens.to(dtype))))
        x = x + self.narrow(self.widen(self.feed_forward_norm(x)).relu_())
        if in_context and self.positions is not None:
            x = x + self._attend(x, mask, self.positions)
        x = self.output_norm(x)
        numbers = self.bias(x), F.logsigmoid(self.prior(x)), 2 * self.weight(x).sigmoid()
        # In full precision, also under autocast: sums over words come after it.
        return torch.cat([self.output(self.dropout(x)).to(dtype), *(number.to(dtype) for number in numbers)], -1)

    def _attend(self, x: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        """What the layers add to the words."""
        placed = x + position_vectors(positions, x.shape[1])
        attend = None if mask is None else mask[:, None, None, :]
        read = placed
        for layer in self.layers:
            read = layer(read, attend)
        return read - placed
