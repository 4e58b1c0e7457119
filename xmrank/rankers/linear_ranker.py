"""One linear layer on the item features: the least a ranker can be, and the yardstick for the others."""

from dataclasses import dataclass

from torch import Tensor

from xmrank.rankers.parameters import RankerParameters
from xmrank.rankers.ranker import Ranker, zero_


@dataclass(frozen=True, kw_only=True)
class LinearParameters(RankerParameters):
    """The shared parameters are all it has."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The first layer is the last."""
        return (self.levels,)


class LinearRanker(Ranker):
    """Scores w·x + b for item features x.

    On `concat` alone the query shifts all scores of its list alike, so that the order is that of a fixed preference
    among candidates; product, difference or cosine make it depend on the query.
    """

    name = "linear"
    parameters_type = LinearParameters

    def __init__(self, parameters: LinearParameters) -> None:
        super().__init__(parameters)
        if parameters.zero_init_output:
            zero_(self.input)

    def body(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """The first layer's output as it is, [lists, items, levels]."""
        return hidden
