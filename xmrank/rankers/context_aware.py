"""The paper's ranker: a transformer encoder over the list, so that an item's score depends on what it stands beside."""

from dataclasses import dataclass

from torch import Tensor, nn

from xmrank.rankers.item_features import first_stage_rank
from xmrank.rankers.layers import FullyConnected, linear
from xmrank.rankers.parameters import (
    ACTIVATIONS,
    RankerParameters,
    layer_sizes,
    require_choice,
    require_count,
    require_rate,
)
from xmrank.rankers.ranker import Ranker, zero_
from xmrank.rankers.transformer import LAYER_NORMS, EncoderLayer, RankEncoding


@dataclass(frozen=True, kw_only=True)
class ContextAwareParameters(RankerParameters):
    """Parameters of `ContextAwareRanker`; the defaults are the paper's."""

    width: int = 64
    """Length of an item's vector in the encoder, the output of the last layer in front of it."""
    hidden: tuple[int, ...] = ()
    """Sizes of layers in front of the one of `width`."""
    activation: str | None = None
    """None, relu, gelu, silu or tanh after each layer in front of the encoder."""
    layers: int = 2
    """Encoder layers."""
    heads: int = 4
    """Attention heads; they share the width equally."""
    feed_forward: int = 128
    """Width of the encoder's feed-forward layers."""
    dropout: float = 0.0
    """Dropout after the layers in front, on attention weights, in feed-forward layers and on what they add."""
    positional: str | None = None
    """None, fixed or learned encoding of the first-stage rank."""
    max_rank: int = 256
    """Ranks with an encoding of their own; later ones share one."""
    layer_norm: str = "standard"
    """standard (√(variance + eps)) or unbiased (deviation + eps, as allRank's models have it)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", layer_sizes("hidden", self.hidden))
        for name in ("width", "layers", "heads", "feed_forward", "max_rank"):
            require_count(name, getattr(self, name))
        require_choice("activation", self.activation, (None, *ACTIVATIONS))
        require_choice("positional", self.positional, (None, "fixed", "learned"))
        require_choice("layer_norm", self.layer_norm, LAYER_NORMS)
        require_rate("dropout", self.dropout)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The layers in front of the encoder."""
        return (*self.hidden, self.width)


class ContextAwareRanker(Ranker):
    """Item features → layers in front → rank encoding, if any → pre-norm encoder → final norm → score.

    Source: Pobrotyn et al., "Context-aware learning to rank with self-attention", SIGIR eCom 2020.
    """

    name = "context_aware"
    parameters_type = ContextAwareParameters

    def __init__(self, parameters: ContextAwareParameters) -> None:
        super().__init__(parameters)
        width, dropout, norm = parameters.width, parameters.dropout, parameters.layer_norm
        self.front = FullyConnected(parameters.sizes, activation=parameters.activation, dropout=dropout)
        self.position = None
        if parameters.positional is not None:
            self.position = RankEncoding(width, parameters.max_rank, learned=parameters.positional == "learned")
        self.layers = nn.ModuleList(
            EncoderLayer(width, parameters.heads, parameters.feed_forward, dropout, norm)
            for _ in range(parameters.layers)
        )
        self.norm = LAYER_NORMS[norm](width)
        self.output = linear(width, parameters.levels)
        if parameters.zero_init_output:
            zero_(self.output)

    def body(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:
        """The layers in front, the encoder and the output layer, [lists, items, levels]."""
        items = self.front(hidden)
        if self.position is not None:
            items = self.position(items, first_stage_rank(similarity, mask))
        attend = None if mask is None else _attendable(mask)
        for layer in self.layers:
            items = layer(items, attend)
        output: Tensor = self.output(self.norm(items))
        return output


def _attendable(mask: Tensor) -> Tensor:
    """Where attention may look, [lists, 1, 1, items]: at real items, and in a list without any at all of its padding.

    A softmax over nothing would be NaN there, and stay NaN in the gradients of every other list.
    """
    return (mask | ~mask.any(-1, keepdim=True))[:, None, None, :]
