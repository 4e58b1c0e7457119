"""The encoder of one side's tokens: the words of a text, or the regions of an image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmrank.rankers.layers import Dropout, make_linear
from xmrank.rankers.transformer import EncoderLayer

POSITION_SCALE = 0.1
"""Standard deviation of the initial position vectors."""


class TokenEncoder(nn.Module):
    """Norm → linear layer → positions, if any → 3 × 3 convolutions, if any → encoder layers → linear, at unit length.

    Args:
        inputs: numbers in a token of the store.
        width: numbers in an encoded token.
        heads: attention heads of the layers.
        layers: encoder layers among the tokens of an item.
        positions: positions with a learned vector; all later ones share the last; 0: tokens have no order.
        convolutions: residual convolutions.
        grid: rows and columns of the square grid that the convolutions see.
        dropout: dropout probability of the inputs, in the layers, and before the last linear layer.

    Raises:
        ValueError: convolutions without a grid.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        heads: int,
        layers: int,
        positions: int,
        convolutions: int,
        grid: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if convolutions and not grid:
            raise ValueError(
                f"token_convolutions {convolutions}: expected 0, since the image tokens are no square grid"
            )
        self.grid, self.dropout = grid, Dropout(dropout)
        self.input_norm = nn.LayerNorm(inputs)
        self.input = make_linear(inputs, width)
        self.positions = nn.Parameter(torch.randn(positions, width) * POSITION_SCALE) if positions else None
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(convolutions))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, 2 * width, dropout, "standard") for _ in range(layers))
        self.output_norm = nn.LayerNorm(width)
        self.output = make_linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens [items, longest, inputs] → [items, longest, width] of unit length; the padding has no meaning.

        Args:
            tokens: of the items.
            mask: True where a token is real, [items, longest], at least one in each item; None: all are.
        """
        x = self.input(self.dropout(self.input_norm(tokens.to(self.input.weight.dtype))))
        if self.positions is not None:
            x = x + self._position_vectors(tokens.shape[1])
        if self.convolutions:
            x = self._convolve(x)
        attend = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, attend)
        x = self.output(self.dropout(self.output_norm(x)))
        # At unit length in full precision, also under autocast: the sums over words come after it.
        return F.normalize(x.to(self.input.weight.dtype), dim=-1)

    def _position_vectors(self, count: int) -> Tensor:
        """The vectors of the first positions, [count, width]."""
        assert self.positions is not None
        last = len(self.positions) - 1
        return F.embedding(torch.arange(count, device=self.positions.device).clamp(max=last), self.positions)

    def _convolve(self, x: Tensor) -> Tensor:
        """The residual convolutions over the grid, [items, grid², width] → the same."""
        image = x.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        for convolution in self.convolutions:
            image = image + convolution(F.gelu(image))
        return image.flatten(2).transpose(1, 2)
