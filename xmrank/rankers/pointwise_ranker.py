"""A multi-layer perceptron that scores each item on its own."""

from dataclasses import dataclass

from torch import Tensor

from xmrank.rankers.layers import FullyConnected, linear
from xmrank.rankers.parameters import ACTIVATIONS, RankerParameters, layer_sizes, require_choice, require_rate
from xmrank.rankers.ranker import Ranker, zero_


@dataclass(frozen=True, kw_only=True)
class PointwiseParameters(RankerParameters):
    """Parameters of `PointwiseRanker`."""

    hidden: tuple[int, ...] = (128, 64)
    """Sizes of the hidden layers, at least one."""
    activation: str | None = "relu"
    """None, relu, gelu, silu or tanh after each hidden layer."""
    dropout: float = 0.0
    """Dropout after each hidden layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", layer_sizes("hidden", self.hidden))
        if not self.hidden:
            raise ValueError("hidden must have at least one layer size; the linear ranker has none")
        require_choice("activation", self.activation, (None, *ACTIVATIONS))
        require_rate("dropout", self.dropout)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The hidden layers."""
        return self.hidden


class PointwiseRanker(Ranker):
    """Item features → hidden layers → score. An item's score depends on no other item, but through `cosine`."""

    name = "pointwise"
    parameters_type = PointwiseParameters

    def __init__(self, parameters: PointwiseParameters) -> None:
        super().__init__(parameters)
        self.hidden = FullyConnected(parameters.sizes, activation=parameters.activation, dropout=parameters.dropout)
        self.output = linear(parameters.sizes[-1], parameters.levels)
        if parameters.zero_init_output:
            zero_(self.output)

    def body(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """The remaining layers, [lists, items, levels]."""
        output: Tensor = self.output(self.hidden(hidden))
        return output
