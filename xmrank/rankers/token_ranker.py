"""What the rankers share that compare words with image regions, under the list transformer."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmrank.rankers.context_aware import ContextAwareRanker
from xmrank.rankers.item_features import cosine_columns
from xmrank.rankers.layers import make_linear
from xmrank.rankers.list_tokens import ListTokens, SideTokens
from xmrank.rankers.parameters import TokenParameters, TokenSizes, as_json
from xmrank.rankers.ranker import is_all_real
from xmrank.rankers.refinement import Refinement
from xmrank.rankers.region_encoder import RegionEncoder
from xmrank.rankers.word_encoder import NUMBERS, WordEncoder

BLOCK = 2**22
"""Numbers in the largest temporary tensor of an interaction: more lists are computed block by block."""
SCORE_FLOOR = 1e-4
"""Added to the variance of a list's interaction scores: near the start, when they are all almost 0, their differences
must not be blown up, nor the gradients that pass them."""


class TokenRanker(ContextAwareRanker):
    """A context-aware ranker whose items carry a vector that says how a text's words fit an image's regions.

    Definition: a subclass matches every word w of a text with a vector m_w made of an image's regions (`match_words`).
    With q_w the encoded word and d its width, q_w·m_w/√d + b_w is the logit that a text of the image has the word, and
    e_w = log σ(logit) − log prior_w says how much likelier the word is for this image than for any. The interaction
    score is s = Σ_w a_w e_w with weights a_w, the vector v = Σ_w a_w (q_w ∘ m_w) / Σ_w a_w. A linear layer on v, s/10,
    and s standardised in the list is added to the first linear layer's outputs, so that the list transformer reads the
    interaction. The score is g·s + the transformer's output + the residual, where g is a learned scale times
    ``token_gain``. If the output layer and g start at 0, training starts from the first stage.

    Sources: Fang et al., "From captions to visual concepts and back", CVPR 2015, section 3 (the probability of a word
        from its best region, learned from captions alone; `detect_words`); Pobrotyn et al., 2020 (the transformer).

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
        self.sizes, self.token_width = sizes, parameters.token_width
        self._make_encoders()
        self.interaction_scale = nn.Parameter(torch.tensor(0.0 if parameters.zero_init_output else 1.0))
        self.interaction = make_linear(parameters.token_width + 2, parameters.layer_sizes[0])

    def renew_encoders(self, seed: int) -> None:
        """Draw the initial weights of the encoders from a seed, whatever else the ranker consists of."""
        device = self.interaction_scale.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._make_encoders()
        self.to(device)

    def _make_encoders(self) -> None:
        """Encoders with initial weights."""
        parameters, sizes = self.hyperparameters, self.sizes
        self.word_encoder = WordEncoder(
            sizes.text_width,
            parameters.token_width,
            heads=parameters.token_heads,
            layers=parameters.text_token_layers,
            positions=sizes.text_longest,
            dropout=parameters.token_dropout,
        )
        self.region_encoder = RegionEncoder(
            sizes.image_width,
            parameters.token_width,
            heads=parameters.token_heads,
            layers=parameters.image_token_layers,
            positions=sizes.image_longest if parameters.image_positions else 0,
            convolutions=parameters.token_convolutions,
            grid=sizes.image_grid,
            dropout=parameters.token_dropout,
        )

    def describe(self) -> dict[str, Any]:
        """What rebuilds the ranker, the sizes of its tokens included."""
        return {**super().describe(), "tokens": as_json(self.sizes)}

    def match_words(self, words: Tensor, regions: SideTokens) -> Tensor:
        """What every word of every pair is compared with, [lists, items, words, token_width].

        Args:
            words: vectors of the words, [lists, words, token_width], or [lists, items, words, token_width] where texts
                are candidates.
            regions: encoded, of the other side.
        """
        raise NotImplementedError

    def detect_words(self, images: Tensor, words: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the encoders say of words by themselves, to be learned from captions before any list is seen.

        Args:
            images: tokens of images, floating point [images, regions, width].
            words: tokens of words, floating point [words, width].
            mask: True where a region is real, bool [images, regions]; None: all are.

        Returns:
            Logits that a text of the image has the word, [images, words], by its best region; and the logarithm of
            every word's prior probability, [words].
        """
        if mask is not None:
            mask = None if is_all_real(mask) else fill_empty_items(mask)
        vectors, bias, prior, _ = self._split_words(self.word_encoder(words[:, None], None, in_context=False)[:, 0])
        products = self.region_encoder(images, mask) @ vectors.T
        if mask is not None:
            products = products.masked_fill(~mask[..., None], -torch.inf)
        return products.amax(1) * self.token_width**-0.5 + bias, prior

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
        cells = self.region_encoder.grid**2
        if not is_text and self.region_encoder.convolutions and tokens.shape[1] != cells:
            raise ValueError(f"{side} tokens: {tokens.shape[1]} of an image, expected a grid of {cells}")
        if mask is not None and is_all_real(mask):
            mask = None
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None], 0)
            mask = fill_empty_items(mask)
        return self.encode_text(tokens, mask) if is_text else self.encode_image(tokens, mask)

    def encode_text(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """The columns of a text's words: their vectors, and three numbers a word."""
        encoded: Tensor = self.word_encoder(tokens, mask)
        return encoded

    def encode_image(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """The columns that `match_words` reads of an image's regions."""
        encoded: Tensor = self.region_encoder(tokens, mask)
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
        parts = [self._compare(words[part], regions[part]) for part in self._split_lists(words, regions)]
        vectors, scores = (torch.cat(columns) for columns in zip(*parts, strict=True))
        # Tenths: a difference of log-probabilities is about ten times as large as one of cosines.
        columns = torch.cat([vectors, cosine_columns(scores / 10, mask, SCORE_FLOOR)], -1)
        output = self.score_hidden(hidden + self.interaction(columns), similarity, mask)
        return output + self.hyperparameters.token_gain * self.interaction_scale * scores[..., None]

    def _compare(self, words: SideTokens, regions: SideTokens) -> tuple[Tensor, Tensor]:
        """The vectors v [lists, items, token_width] and interaction scores s [lists, items] of some lists."""
        vectors, bias, prior, weight = self._split_words(words.gather())
        if not is_all_real(words.mask):
            weight = weight * fill_empty_items(words.gather_mask())
        matched = self.match_words(vectors, regions)
        if vectors.dim() == 3:  # texts are queries: the same words for all items
            vectors, bias, prior, weight = (part[:, None] for part in (vectors, bias, prior, weight))
        products = vectors * matched
        evidence = F.logsigmoid(products.sum(-1) * self.token_width**-0.5 + bias) - prior
        # As a matrix product, the weighted products are not kept, nor their gradient.
        total = (weight[..., None, :] @ products).squeeze(-2)
        return total / weight.sum(-1, keepdim=True), (weight * evidence).sum(2)

    def _split_words(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The vectors of encoded words, and their logit bias, log prior and weight, without the last dimension."""
        vectors, numbers = words.split([self.token_width, NUMBERS], -1)
        bias, prior, weight = numbers.unbind(-1)
        return vectors, bias, prior, weight

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
