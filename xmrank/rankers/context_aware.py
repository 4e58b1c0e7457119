"""The paper's ranker: a transformer encoder over the list, so that an item's score depends on what it stands beside."""

from torch import Tensor, nn

from xmrank.rankers.item_features import first_stage_rank
from xmrank.rankers.layers import FullyConnected, linear
from xmrank.rankers.parameters import ContextAwareParameters
from xmrank.rankers.ranker import Ranker, zero_layer_
from xmrank.rankers.refinement import Refinement
from xmrank.rankers.transformer import LAYER_NORMS, EncoderLayer, RankEncoding


class ContextAwareRanker(Ranker):
    """Item features → layers in front → rank encoding, if any → pre-norm encoder → final norm → score.

    Source: Pobrotyn et al., "Context-aware learning to rank with self-attention", SIGIR eCom 2020.
    """

    parameters_type = ContextAwareParameters

    def __init__(
        self, parameters: ContextAwareParameters, dimensions: int, refinement: Refinement | None = None
    ) -> None:
        super().__init__(parameters, dimensions, refinement)
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
            zero_layer_(self.output)

    def score_hidden(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:
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
