"""What all rankers share: checks of the inputs, item features, the refined similarity, the residual, and padding."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xmrank.rankers.item_features import ItemFeatures
from xmrank.rankers.layers import ACTIVATION_FUNCTIONS
from xmrank.rankers.list_tokens import ListTokens
from xmrank.rankers.parameters import RankerParameters, as_json
from xmrank.rankers.refinement import Refinement


class Ranker(nn.Module):
    """A scorer of lists. A subclass defines `score_hidden`: from the first layer's outputs to the scores.

    `describe` returns what rebuilds it: `rebuild_ranker(ranker.describe())`, then `load_state_dict`. Weights start from
    torch's global generator: seed that for a reproducible start.

    Args:
        parameters: of the subclass's `parameters_type`.
        dimensions: length of an embedding.
        refinement: computes the similarity that the ranker uses; None: it uses the similarity that it is given.
    """

    parameters_type: ClassVar[type[RankerParameters]]
    residual: Tensor | None

    def __init__(self, parameters: RankerParameters, dimensions: int, refinement: Refinement | None = None) -> None:
        super().__init__()
        self.hyperparameters, self.dimensions, self.levels = parameters, dimensions, parameters.levels
        self.input = ItemFeatures(
            dimensions,
            parameters.layer_sizes[0],
            parameters.features,
            norm=parameters.input_norm,
            dropout=parameters.input_dropout,
        )
        self.output_activation = parameters.output_activation
        self.refinement = refinement
        # A parameter is trained; a buffer is only kept with the weights.
        if parameters.residual is None:
            self.residual = None
        elif parameters.residual_learnable:
            self.residual = nn.Parameter(torch.tensor(float(parameters.residual)))
        else:
            self.register_buffer("residual", torch.tensor(float(parameters.residual)))

    @property
    def name(self) -> str:
        """The ranker's name, a key of `RANKERS`."""
        return self.hyperparameters.name

    def describe(self) -> dict[str, Any]:
        """What rebuilds the ranker, all defaults included, as values that JSON keeps."""
        return {
            "ranker": self.name,
            "dimensions": self.dimensions,
            "parameters": as_json(self.hyperparameters),
            "refinement": None if self.refinement is None else self.refinement.describe(),
        }

    def score_hidden(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:
        """The first layer's outputs [lists, items, layer_sizes[0]] → the output [lists, items, levels], not yet
        activated."""
        raise NotImplementedError

    def score_with_tokens(
        self, hidden: Tensor, similarity: Tensor, mask: Tensor | None, tokens: ListTokens | None
    ) -> Tensor:
        """As `score_hidden`; a ranker that reads tokens adds what they say."""
        if tokens is not None:
            raise ValueError(f"ranker {self.name}: reads no tokens; expected tokens=None")
        return self.score_hidden(hidden, similarity, mask)

    def forward(
        self,
        query: Tensor,
        candidates: Tensor,
        similarity: Tensor,
        *,
        mask: Tensor | None = None,
        projected: bool = False,
        refined: bool = False,
        tokens: ListTokens | None = None,
    ) -> Tensor:
        """Score the candidates of each list.

        The scores do not depend on the order of the candidates (with a rank encoding: unless two of them have the same
        similarity), nor on the values at padding, which may be anywhere in the list and even NaN.

        Args:
            query: query embeddings, [lists, dimensions].
            candidates: candidate embeddings, [lists, items, dimensions]; with `projected`, rows of what
                `project_candidates` returns, [lists, items, its columns].
            similarity: first-stage similarity, [lists, items].
            mask: True where an item is real, bool, [lists, items]; None: all are.
            projected: whether the candidates have been projected.
            refined: whether the similarity has already been computed by `refinement`; no effect without one.
            tokens: of the queries and the candidates, for a ranker that reads them; None: for all others.

        All floating dtypes are accepted; the computation uses the parameters' dtype.

        Returns:
            Scores, [lists, items], higher is better; with several levels [lists, items, levels], and `score` turns
            them into one value per item. 0 at padding.

        Raises:
            ValueError: shapes or dtypes do not fit; `projected` with features that cannot be projected,
                or with a similarity that is not refined yet; tokens are missing, or the ranker reads none.
        """
        # Projected candidates have the columns of the first layer's outputs.
        columns = self.input.projected_size if projected else self.dimensions
        _require_fitting(query, candidates, similarity, mask, self.dimensions, columns)
        dtype = self.input.weight.dtype  # embeddings may be stored in half precision
        query, candidates, similarity = query.to(dtype), candidates.to(dtype), similarity.to(dtype)
        # Without padding the mask costs time and changes nothing.
        if mask is not None and is_all_real(mask):
            mask = None
        if mask is not None:  # NaN at padding must not reach a gradient, where 0 · NaN is NaN
            query = query.masked_fill(~mask.any(-1, keepdim=True), 0)
            candidates = candidates.masked_fill(~mask[..., None], 0)
            similarity = similarity.masked_fill(~mask, 0)
        if self.refinement is not None and not refined:
            # Refining needs the embeddings, of which a projection has lost a part.
            if projected:
                raise ValueError(
                    "projected candidates cannot be refined; expected a refined similarity, and refined=True"
                )
            similarity = self.refinement(query, candidates)
        hidden = self.input(query, candidates, similarity, mask, projected=projected)
        scores = self._add_residual(self.score_with_tokens(hidden, similarity, mask, tokens), similarity)
        # What the layers made of the padding is not a score.
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], 0)
        return scores.squeeze(-1) if self.levels == 1 else scores

    def score(
        self,
        query: Tensor,
        candidates: Tensor,
        similarity: Tensor,
        *,
        mask: Tensor | None = None,
        projected: bool = False,
        refined: bool = False,
        tokens: ListTokens | None = None,
    ) -> Tensor:
        """One value per item to rank by, [lists, items]; arguments and errors are those of `forward`.

        With several levels it is the expected level, the sum of the levels' probabilities: of the outputs if they end
        in a sigmoid, else of their sigmoids. Otherwise it is the score. 0 at padding.
        """
        scores: Tensor = self(
            query, candidates, similarity, mask=mask, projected=projected, refined=refined, tokens=tokens
        )
        if self.levels == 1:
            return scores
        # The expected level is the sum over thresholds of the probability that the item is above it.
        expected = (scores if self.output_activation == "sigmoid" else scores.sigmoid()).sum(-1)
        return expected if mask is None else expected.masked_fill(~mask, 0)

    def project_candidates(self, gallery: Tensor) -> Tensor:
        """The candidates' part of the first layer, computed once for a whole gallery instead of once for every list.

        `ranker(query, projected[rows], similarity, projected=True)` then gives the same scores as the embeddings. This
        holds while the weights stay the same and the features are concat, or concat and cosine: a product or a
        difference needs the query. Call it in evaluation mode; in training, one dropout mask would serve all lists.

        Args:
            gallery: candidate embeddings, [N, dimensions], any floating dtype.

        Returns:
            [N, columns] in the parameters' dtype: the first layer's outputs, and two more with input normalisation.

        Raises:
            ValueError: the features cannot be projected, or the gallery is not [N, dimensions].
        """
        if gallery.dim() != 2 or gallery.shape[1] != self.dimensions:
            raise ValueError(f"gallery must be [N, {self.dimensions}], not {list(gallery.shape)}")
        return self.input.project_candidates(gallery)

    def _add_residual(self, output: Tensor, similarity: Tensor) -> Tensor:
        """The output activation, then the weighted first-stage similarity; [lists, items, levels]."""
        if self.output_activation is not None:
            output = ACTIVATION_FUNCTIONS[self.output_activation](output)
        return output if self.residual is None else output + self.residual * similarity[..., None]


def is_all_real(mask: Tensor) -> bool:
    """Whether all items are known to be real; False where the check would wait for a GPU, or is refused by vmap."""
    if mask.device.type != "cpu":
        return False
    try:  # vmap refuses to make a bool of a tensor
        return bool(mask.all())
    except RuntimeError:
        return False


def _require_fitting(
    query: Tensor, candidates: Tensor, similarity: Tensor, mask: Tensor | None, dimensions: int, columns: int
) -> None:
    """Raise ValueError unless shapes and dtypes fit; the shapes are compared with the similarity's."""
    if similarity.dim() != 2:
        raise ValueError(f"similarity must be [lists, items], not {list(similarity.shape)}")
    lists, items = similarity.shape
    expected = {"query": (query, [lists, dimensions]), "candidates": (candidates, [lists, items, columns])}
    for name, (tensor, shape) in expected.items():
        if list(tensor.shape) != shape:
            raise ValueError(
                f"{name} must be {shape} beside a similarity of {[lists, items]}, not {list(tensor.shape)}"
            )
    for name, tensor in (("query", query), ("candidates", candidates), ("similarity", similarity)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be of a floating dtype, not {tensor.dtype}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != similarity.shape):
        raise ValueError(f"mask must be bool {[lists, items]}, not {mask.dtype} {list(mask.shape)}")
