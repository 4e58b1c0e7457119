"""The encoder of an image's regions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmrank.rankers.layers import Dropout, make_linear
from xmrank.rankers.transformer import EncoderLayer

POSITION_SCALE = 0.1
"""Standard deviation of the initial position vectors."""


class RegionEncoder(nn.Module):
    """Norm → linear → positions, if any → residual 3 × 3 convolutions, if any → encoder layers, if any → norm → linear.

    Args:
        inputs: numbers in a token of the store.
        width: numbers in an encoded region.
        heads: attention heads of the layers.
        layers: encoder layers among the regions of an image.
        positions: positions with a learned vector; all later ones share the last; 0: regions have no order.
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
        self.convolutions = nn.ModuleList(ResidualConvolution(width) for _ in range(convolutions))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, 2 * width, dropout, "standard") for _ in range(layers))
        self.output_norm = nn.LayerNorm(width)
        self.output = make_linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens [items, longest, inputs] → [items, longest, width]; the padding has no meaning.

        Args:
            tokens: of the images.
            mask: True where a region is real, [items, longest], at least one in each item; None: all are.
        """
        x = self.input(self.dropout(self.input_norm(tokens.to(self.input.weight.dtype))))
        if self.positions is not None:
            x = x + position_vectors(self.positions, tokens.shape[1])
        if self.convolutions:
            image = x.transpose(1, 2).unflatten(2, (self.grid, self.grid))
            for convolution in self.convolutions:
                image = convolution(image)
            x = image.flatten(2).transpose(1, 2)
        attend = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, attend)
        x = self.output(self.dropout(self.output_norm(x)))
        # In full precision, also under autocast: sums over words come after it.
        return x.to(self.input.weight.dtype)


class ResidualConvolution(nn.Module):
    """Adds a 3 × 3 convolution of the normalised map to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # One group: a layer norm over the whole map, which does not depend on other images.
        self.norm = nn.GroupNorm(1, width)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """[items, width, rows, columns] → the same."""
        added: Tensor = self.convolution(F.gelu(self.norm(image)))
        return image + added


def position_vectors(table: Tensor, count: int) -> Tensor:
    """The vectors of the first positions, [count, width]; those beyond the table share its last one."""
    return F.embedding(torch.arange(count, device=table.device).clamp(max=len(table) - 1), table)
