"""The paper's ranker: a transformer encoder over the list, so that a score depends on the other items of the list."""

from torch import Tensor, nn

from xmrank.rankers.item_features import first_stage_rank
from xmrank.rankers.layers import FullyConnected, make_linear, zero_layer_
from xmrank.rankers.parameters import ContextAwareParameters
from xmrank.rankers.ranker import Ranker
from xmrank.rankers.refinement import Refinement
from xmrank.rankers.transformer import LAYER_NORMS, EncoderLayer, RankEncoding


class ContextAwareRanker(Ranker):
    """Item features → linear layers → rank encoding, if any → pre-norm encoder → final norm → score.

    Source: Pobrotyn et al., "Context-aware learning to rank with self-attention", SIGIR eCom 2020.
    """

    parameters_type = ContextAwareParameters

    def __init__(
        self, parameters: ContextAwareParameters, dimensions: int, refinement: Refinement | None = None
    ) -> None:
        super().__init__(parameters, dimensions, refinement)
        width, dropout, norm = parameters.width, parameters.dropout, parameters.layer_norm
        # The order of the layers is the order of the random draws of their initial weights.
        self.front = FullyConnected(parameters.layer_sizes, activation=parameters.activation, dropout=dropout)
        self.position = None
        if parameters.positional is not None:
            self.position = RankEncoding(width, parameters.max_rank, learned=parameters.positional == "learned")
        self.layers = nn.ModuleList(
            EncoderLayer(width, parameters.heads, parameters.feed_forward, dropout, norm)
            for _ in range(parameters.layers)
        )
        self.norm = LAYER_NORMS[norm](width)
        self.output = make_linear(width, parameters.levels)
        if parameters.zero_init_output:
            zero_layer_(self.output)

    def score_hidden(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:
        """The linear layers, the encoder and the output layer, [lists, items, levels]."""
        items = self.front(hidden)
        if self.position is not None:
            items = self.position(items, first_stage_rank(similarity, mask))
        # The same for all layers: padding is never attended to.
        attend = None if mask is None else _make_attention_mask(mask)
        for layer in self.layers:
            items = layer(items, attend)
        output: Tensor = self.output(self.norm(items))
        return output


def _make_attention_mask(mask: Tensor) -> Tensor:
    """True where an item may be attended to, [lists, 1, 1, items]: real items, and all items of an empty list.

    A softmax over no items would be NaN, and would make the gradients of all other lists NaN.
    """
    return (mask | ~mask.any(-1, keepdim=True))[:, None, None, :]
