"""A multi-layer perceptron that scores each item by itself."""

from torch import Tensor

from xmrank.rankers.layers import FullyConnected, make_linear, zero_layer_
from xmrank.rankers.parameters import PointwiseParameters
from xmrank.rankers.ranker import Ranker
from xmrank.rankers.refinement import Refinement


class PointwiseRanker(Ranker):
    """Item features → hidden layers → score. It does not depend on the other items, except by `cosine`."""

    parameters_type = PointwiseParameters

    def __init__(self, parameters: PointwiseParameters, dimensions: int, refinement: Refinement | None = None) -> None:
        super().__init__(parameters, dimensions, refinement)
        self.hidden = FullyConnected(
            parameters.layer_sizes, activation=parameters.activation, dropout=parameters.dropout
        )
        self.output = make_linear(parameters.layer_sizes[-1], parameters.levels)
        if parameters.zero_init_output:
            zero_layer_(self.output)

    def score_hidden(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """The remaining layers, [lists, items, levels]."""
        output: Tensor = self.output(self.hidden(hidden))
        return output
