"""What the rankers share that compare words with image regions, under the list transformer."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from xmrank.rankers.context_aware import ContextAwareRanker
from xmrank.rankers.item_features import cosine_columns
from xmrank.rankers.layers import make_linear
from xmrank.rankers.list_tokens import ListTokens, SideTokens
from xmrank.rankers.parameters import TokenParameters, TokenSizes, as_json
from xmrank.rankers.ranker import is_all_real
from xmrank.rankers.refinement import Refinement
from xmrank.rankers.token_encoder import TokenEncoder

BLOCK = 2**22
"""Numbers in the largest temporary tensor of an interaction: more lists are computed block by block."""
SCORE_FLOOR = 1e-4
"""Added to the variance of a list's interaction scores: near the start, when they are all almost 0, their differences
must not be blown up, nor the gradients that pass them."""


class TokenRanker(ContextAwareRanker):
    """A context-aware ranker whose items carry a vector that says how a text's words fit an image's regions.

    Definition: a subclass makes of every candidate the vector v (`interact`). The interaction score is s = u·v with a
    learned u. A linear layer on v, s, and s standardised in the list is added to the first linear layer's outputs, so
    that the list transformer reads the interaction. The score is g·s + the transformer's output + the residual, where
    g is ``token_gain``. If the output layer and u start at 0, training starts from the first stage. The sign of every
    number of v is then left to the first steps.

    Args:
        parameters: of the subclass's `parameters_type`.
        dimensions: length of an embedding.
        refinement: as for every ranker.
        sizes: of the tokens.
    """

    hyperparameters: TokenParameters
    parameters_type: ClassVar[type[TokenParameters]]

    def __init__(
        self, parameters: TokenParameters, dimensions: int, refinement: Refinement | None, sizes: TokenSizes
    ) -> None:
        super().__init__(parameters, dimensions, refinement)
        self.sizes, width = sizes, parameters.token_width
        common = {"heads": parameters.token_heads, "dropout": parameters.token_dropout}
        self.text_encoder = TokenEncoder(
            sizes.text_width,
            width,
            layers=parameters.text_token_layers,
            positions=sizes.text_longest,
            convolutions=0,
            grid=0,
            **common,  # type: ignore[arg-type]
        )
        self.image_encoder = TokenEncoder(
            sizes.image_width,
            width,
            layers=parameters.image_token_layers,
            positions=sizes.image_longest if parameters.image_positions else 0,
            convolutions=parameters.token_convolutions,
            grid=sizes.image_grid,
            **common,  # type: ignore[arg-type]
        )
        # Without a bias, which a softmax over words would cancel.
        self.word_weight = nn.Linear(width, 1, bias=False)
        start = 0.0 if parameters.zero_init_output else 1.0
        self.interaction_scale = nn.Parameter(torch.full((width,), start))
        self.interaction = make_linear(width + 2, parameters.layer_sizes[0])

    def describe(self) -> dict[str, Any]:
        """What rebuilds the ranker, the sizes of its tokens included."""
        return {**super().describe(), "tokens": as_json(self.sizes)}

    def interact(self, words: SideTokens, regions: SideTokens) -> Tensor:
        """What the words say of the regions of every pair, [lists, items, token_width].

        Args:
            words: encoded, of the side that texts are on.
            regions: encoded, of the other side.
        """
        raise NotImplementedError

    def project_tokens(self, side: Literal["query", "candidate"], tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Encode the tokens of one side, computed once for a whole gallery instead of once for every list.

        Give the result as the values of `SideTokens`, with ``projected=True``. Call it in evaluation
        mode; in training, one dropout mask would serve all lists.

        Args:
            side: of the lists, query or candidate.
            tokens: floating point [items, longest, width].
            mask: True where a token is real, bool [items, longest]; None: all are.

        Returns:
            [items, longest, columns] in the parameters' dtype; the padding has no meaning.

        Raises:
            ValueError: tokens of another width, or of another grid than the ranker's.
        """
        is_text = side == self.sizes.text
        width = self.sizes.text_width if is_text else self.sizes.image_width
        if tokens.dim() != 3 or tokens.shape[2] != width:
            raise ValueError(f"{side} tokens must be [items, longest, {width}], not {list(tokens.shape)}")
        cells = self.image_encoder.grid**2
        if not is_text and self.image_encoder.convolutions and tokens.shape[1] != cells:
            raise ValueError(f"{side} tokens: {tokens.shape[1]} of an image, expected a grid of {cells}")
        if mask is not None and is_all_real(mask):
            mask = None
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None], 0)
            mask = fill_empty_items(mask)
        return self.encode_text(tokens, mask) if is_text else self.encode_image(tokens, mask)

    def encode_text(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """The columns that `interact` reads of a text's words."""
        encoded: Tensor = self.text_encoder(tokens, mask)
        return encoded

    def encode_image(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """The columns that `interact` reads of an image's regions."""
        encoded: Tensor = self.image_encoder(tokens, mask)
        return encoded

    def score_with_tokens(
        self, hidden: Tensor, similarity: Tensor, mask: Tensor | None, tokens: ListTokens | None
    ) -> Tensor:
        """The interaction, the list transformer on it, and the output layer, [lists, items, levels]."""
        if tokens is None:
            raise ValueError(f"ranker {self.name}: reads tokens; expected tokens=ListTokens(...)")
        tokens.require_fitting(similarity)
        projected = self.project_lists(tokens)
        words, regions = projected.query, projected.candidate
        if self.sizes.text == "candidate":
            words, regions = regions, words
        vectors = torch.cat([self.interact(words[part], regions[part]) for part in self._split_lists(words, regions)])
        # In full precision under autocast, too: products and sums have it, linear layers would not.
        scores = (vectors * self.interaction_scale).sum(-1)
        # Products of two unit vectors are small numbers; the factor makes them about 1.
        columns = torch.cat([vectors * vectors.shape[-1], cosine_columns(scores, mask, SCORE_FLOOR)], -1)
        output = self.score_hidden(hidden + self.interaction(columns), similarity, mask)
        return output + self.hyperparameters.token_gain * scores[..., None]

    def weigh_words(self, words: Tensor, mask: Tensor | None) -> Tensor:
        """The weight of every word of an encoded text [..., longest, width]: a softmax over the words, [..., longest].

        Args:
            words: encoded.
            mask: True where a word is real; None: all are.
        """
        # As long as a normalised vector, so that the weights may differ from the start.
        logits: Tensor = self.word_weight(words * words.shape[-1] ** 0.5).squeeze(-1).to(words.dtype)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        return logits.softmax(-1)

    def project_lists(self, tokens: ListTokens) -> ListTokens:
        """The tokens of lists, projected; a side that is already stays as it is."""
        query, candidate = self._project_side("query", tokens.query), self._project_side("candidate", tokens.candidate)
        return ListTokens(query, candidate)

    def _project_side(self, name: Literal["query", "candidate"], side: SideTokens) -> SideTokens:
        """The side's tokens, projected."""
        if side.projected:
            return side
        values = self.project_tokens(name, side.values, side.mask)
        return replace(side, values=values, projected=True)

    def _split_lists(self, words: SideTokens, regions: SideTokens) -> list[slice]:
        """Parts of the lists whose temporary tensors have at most ``BLOCK`` numbers each; at least one part."""
        lists, items = (words if words.index.dim() == 2 else regions).index.shape
        pairs = items * words.longest
        at_once = max(1, BLOCK // max(1, pairs * max(regions.longest, regions.values.shape[-1])))
        return [slice(start, start + at_once) for start in range(0, max(lists, 1), at_once)]


def fill_empty_items(mask: Tensor) -> Tensor:
    """The mask [items, longest], all True for an item without tokens: a softmax over nothing would be NaN."""
    return mask | ~mask.any(-1, keepdim=True)
