"""Tokens for rankers that read them: those of new queries, made as the gallery's were, and the gallery's own."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from xmrank.config.common import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_shards import TokenRecipe
from xmrank.embed.token_store import Side, TokenArray
from xmrank.rank.checks import find_token_settings
from xmrank.rankers import ListTokens, SideTokens
from xmrank.rankers.token_ranker import TokenRanker
from xmrank.train.projected_tokens import project_rows
from xmrank.train.token_sides import gather_side

TOKEN_SIDES: dict[Direction, tuple[Side, Side]] = {"i2t": ("image", "text"), "t2i": ("text", "image")}
"""The sides of the queries and of the gallery."""
KEPT = 2**28
"""Numbers of a gallery's projected tokens, and of its refined embeddings, that a process keeps in memory: 1 GiB."""


def make_recipe(store: EmbeddingStore) -> TokenRecipe | None:
    """How the tokens of a store were made; None: it has none, or they were imported."""
    settings = find_token_settings(store)
    return TokenRecipe(settings, store.directory) if settings else None


@dataclass(frozen=True)
class GalleryTokens:
    """The gallery's tokens, projected by the ranker once for all queries.

    Attributes:
        ranker: in evaluation mode, on ``device``.
        tokens: of the gallery's side of the store.
        rows: of that side that are the gallery, int64.
        device: of the scores.
    """

    ranker: TokenRanker
    tokens: TokenArray
    rows: np.ndarray
    device: torch.device

    @cached_property
    def projected(self) -> tuple[Tensor, Tensor] | None:
        """The projected tokens [rows, longest, columns] and their mask [rows, longest]; None: more than ``KEPT``."""
        columns = self._project(self.rows[:1])[0].shape[2]
        if len(self.rows) * int(self.tokens.counts[self.rows].max(initial=0)) * columns > KEPT:
            return None
        return self._project(self.rows)

    def make_lists(self, queries: TokenArray, query_rows: np.ndarray, candidates: np.ndarray) -> ListTokens:
        """The tokens of some lists.

        Args:
            queries: of the queries.
            query_rows: which of them, int64 [lists].
            candidates: indices into ``rows``, int64 [lists, items].
        """
        if self.projected is None:
            # Of a larger gallery, the candidates alone.
            chosen, index = np.unique(candidates, return_inverse=True)
            values, mask = self._project(self.rows[chosen])
            candidates = index.reshape(candidates.shape)
        else:
            values, mask = self.projected
        side = SideTokens(values, mask, torch.from_numpy(candidates).to(self.device), projected=True)
        return ListTokens(gather_side(queries, query_rows, self.device), side)

    def _project(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return project_rows(self.ranker, self.tokens, rows, self.device)
