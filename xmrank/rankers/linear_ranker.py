"""One linear layer on the item features: the least a ranker can be, and the yardstick for the others."""

from torch import Tensor

from xmrank.rankers.parameters import LinearParameters
from xmrank.rankers.ranker import Ranker, zero_layer_
from xmrank.rankers.refinement import Refinement


class LinearRanker(Ranker):
    """Scores w·x + b for item features x.

    On `concat` alone the query shifts all scores of its list alike, so that the order is that of a fixed preference
    among candidates; product, difference or cosine make it depend on the query.
    """

    parameters_type = LinearParameters

    def __init__(self, parameters: LinearParameters, dimensions: int, refinement: Refinement | None = None) -> None:
        super().__init__(parameters, dimensions, refinement)
        if parameters.zero_init_output:
            zero_layer_(self.input)

    def score_hidden(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """The first layer's output as it is, [lists, items, levels]."""
        return hidden
