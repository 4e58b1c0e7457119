"""One linear layer on the item features, the simplest ranker."""

from torch import Tensor

from xmrank.rankers.layers import zero_layer_
from xmrank.rankers.parameters import LinearParameters
from xmrank.rankers.ranker import Ranker
from xmrank.rankers.refinement import Refinement


class LinearRanker(Ranker):
    """Scores w·x + b for item features x.

    With `concat` alone, the query adds the same number to all scores of its list, so the order of the candidates is the
    same for all queries. With product, difference or cosine it depends on the query.
    """

    parameters_type = LinearParameters

    def __init__(self, parameters: LinearParameters, dimensions: int, refinement: Refinement | None = None) -> None:
        super().__init__(parameters, dimensions, refinement)
        # The only layer is the output layer.
        if parameters.zero_init_output:
            zero_layer_(self.input)

    def score_hidden(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """The first layer's output as it is, [lists, items, levels]."""
        return hidden
