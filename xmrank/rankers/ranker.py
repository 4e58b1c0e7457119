"""What all rankers do alike: check the inputs, read the item features, add the residual, blank the padding."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xmrank.rankers.item_features import ItemFeatures
from xmrank.rankers.key_value_memory import KeyValueMemory
from xmrank.rankers.layers import ACTIVATION_FUNCTIONS
from xmrank.rankers.parameters import RankerParameters
from xmrank.rankers.refinement import Refinement


class Ranker(nn.Module):
    """A scorer of lists. A subclass says what lies between the first layer's outputs and the scores, in `body`.

    `name` and `parameters_` (values that JSON keeps, defaults included) rebuild it: `build(name, **parameters_)`, then
    `load_state_dict`. Weights start from torch's global generator: seed that for a reproducible start.
    """

    name: ClassVar[str]
    parameters_type: ClassVar[type[RankerParameters]]
    residual: Tensor | None

    def __init__(self, parameters: RankerParameters) -> None:
        super().__init__()
        self.parameters_: dict[str, Any] = parameters.as_json()
        self.dimensions, self.levels = parameters.dimensions, parameters.levels
        self.input = ItemFeatures(
            parameters.dimensions,
            parameters.sizes[0],
            parameters.features,
            norm=parameters.input_norm,
            dropout=parameters.input_dropout,
        )
        self.output_activation = parameters.output_activation
        self.refinement = make_refinement(parameters) if parameters.refine_members else None
        if parameters.residual is None:
            self.residual = None
        elif parameters.residual_learnable:
            self.residual = nn.Parameter(torch.tensor(float(parameters.residual)))
        else:
            self.register_buffer("residual", torch.tensor(float(parameters.residual)))

    def body(self, hidden: Tensor, similarity: Tensor, mask: Tensor | None) -> Tensor:
        """The first layer's outputs [lists, items, sizes[0]] → the output [lists, items, levels], not yet activated."""
        raise NotImplementedError

    def forward(
        self,
        query: Tensor,
        candidates: Tensor,
        similarity: Tensor,
        *,
        mask: Tensor | None = None,
        projected: bool = False,
        refined: bool = False,
    ) -> Tensor:
        """Score the candidates of each list.

        The scores do not depend on the order in which candidates are stored (with a rank encoding: unless two of them
        have the same similarity), nor on what stands at padding, whatever it is and wherever in the list.

        Args:
            query: query embeddings, [lists, dimensions].
            candidates: candidate embeddings, [lists, items, dimensions]; with `projected`, rows of what
                `project_candidates` returns, [lists, items, its columns].
            similarity: first-stage similarity, [lists, items].
            mask: True where an item is real, bool, [lists, items]; None: all are.
            projected: whether the candidates have been projected.
            refined: whether the similarity is already what `refinement` makes of the embeddings; without one, either.

        All floating dtypes are accepted, and computed in the parameters' dtype.

        Returns:
            Scores, [lists, items], higher is better; with an ordinal head [lists, items, levels], for which `score`
            gives one figure an item. 0 at padding.

        Raises:
            ValueError: shapes or dtypes do not fit; `projected` with features that cannot be projected,
                or with a refinement that is still to be made.
        """
        columns = self.input.projected_size if projected else self.dimensions
        _check_inputs(query, candidates, similarity, mask, self.dimensions, columns)
        dtype = self.input.weight.dtype
        query, candidates, similarity = query.to(dtype), candidates.to(dtype), similarity.to(dtype)
        if mask is not None and _nothing_padded(mask):
            mask = None
        if mask is not None:  # even NaN at padding must not reach a gradient, where 0 · NaN is NaN
            query = query.masked_fill(~mask.any(-1, keepdim=True), 0)
            candidates = candidates.masked_fill(~mask[..., None], 0)
            similarity = similarity.masked_fill(~mask, 0)
        if self.refinement is not None and not refined:
            if projected:
                raise ValueError(
                    "projected candidates cannot be refined; expected a refined similarity, and refined=True"
                )
            similarity = self.refinement(query, candidates)
        hidden = self.input(query, candidates, similarity, mask, projected=projected)
        scores = self._finish(self.body(hidden, similarity, mask), similarity)
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
    ) -> Tensor:
        """One figure an item to rank by, [lists, items]; arguments and errors are those of `forward`.

        With an ordinal head it is the expected level, the sum of the levels' probabilities: of the outputs if they end
        in a sigmoid, else of their sigmoids. Otherwise it is the score. 0 at padding.
        """
        scores: Tensor = self(query, candidates, similarity, mask=mask, projected=projected, refined=refined)
        if self.levels == 1:
            return scores
        expected = (scores if self.output_activation == "sigmoid" else scores.sigmoid()).sum(-1)
        return expected if mask is None else expected.masked_fill(~mask, 0)

    def project_candidates(self, table: Tensor) -> Tensor:
        """The first layer's candidate part, computed once for a whole table instead of once for every list.

        For frozen scoring: `ranker(query, table[rows], similarity, projected=True)` then gives the scores of the raw
        candidates. It applies while the parameters stay as they are and the features are concat, or concat and cosine:
        a product or difference with the query is nothing that a candidate has by itself. Call it in evaluation mode,
        otherwise input dropout is drawn once a candidate for all lists.

        Args:
            table: candidate embeddings, [N, dimensions], any floating dtype.

        Returns:
            [N, columns] in the parameters' dtype: the first layer's outputs, two more with input normalisation.

        Raises:
            ValueError: the features cannot be projected, or the table is not [N, dimensions].
        """
        if table.dim() != 2 or table.shape[1] != self.dimensions:
            raise ValueError(f"table must be [N, {self.dimensions}], not {list(table.shape)}")
        return self.input.project_candidates(table)

    def _finish(self, output: Tensor, similarity: Tensor) -> Tensor:
        if self.output_activation is not None:
            output = ACTIVATION_FUNCTIONS[self.output_activation](output)
        return output if self.residual is None else output + self.residual * similarity[..., None]


def make_refinement(parameters: RankerParameters) -> Refinement:
    """The refinement that parameters ask for; nothing is in it yet."""
    memory = None
    if parameters.refine_memory_pairs:
        memory = KeyValueMemory(
            parameters.dimensions,
            pairs=parameters.refine_memory_pairs,
            images=parameters.refine_memory_images,
            bank=parameters.refine_bank,
            neighbours=parameters.refine_memory_neighbours,
            scale=parameters.refine_memory_scale,
            text=parameters.refine_memory_text,
        )
    return Refinement(
        parameters.dimensions,
        members=parameters.refine_members,
        width=parameters.refine_width,
        bank=parameters.refine_bank,
        neighbours=parameters.refine_neighbours,
        hub=parameters.refine_hub,
        memory=memory,
        recall=parameters.refine_recall,
    )


def zero_(layer: nn.Linear | ItemFeatures) -> None:
    """Set a layer's weight and bias to 0, so that whatever its inputs, it starts with an output of 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _nothing_padded(mask: Tensor) -> bool:
    """Whether all items are known to be real; False where looking would wait for a device, or is refused by vmap."""
    if mask.device.type != "cpu":
        return False
    try:
        return bool(mask.all())
    except RuntimeError:
        return False


def _check_inputs(
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
