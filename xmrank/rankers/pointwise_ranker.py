"""A multi-layer perceptron that scores each item on its own."""

from torch import Tensor

from xmrank.rankers.layers import FullyConnected, linear
from xmrank.rankers.parameters import PointwiseParameters
from xmrank.rankers.ranker import Ranker, zero_layer_
from xmrank.rankers.refinement import Refinement


class PointwiseRanker(Ranker):
    """Item features → hidden layers → score. An item's score depends on no other item, but through `cosine`."""

    parameters_type = PointwiseParameters

    def __init__(self, parameters: PointwiseParameters, dimensions: int, refinement: Refinement | None = None) -> None:
        super().__init__(parameters, dimensions, refinement)
        self.hidden = FullyConnected(parameters.sizes, activation=parameters.activation, dropout=parameters.dropout)
        self.output = linear(parameters.sizes[-1], parameters.levels)
        if parameters.zero_init_output:
            zero_layer_(self.output)

    def score_hidden(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """The remaining layers, [lists, items, levels]."""
        output: Tensor = self.output(self.hidden(hidden))
        return output
