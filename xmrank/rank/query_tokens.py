"""Tokens for rankers that read them: those of new queries, made as the gallery's were, and the gallery's own."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmrank.config.common import Direction
from xmrank.config.embed import TokenSettings
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_shards import TokenRecipe
from xmrank.embed.token_store import Side, TokenArray
from xmrank.rank.query_set import FLAG, Kind
from xmrank.rankers import ListTokens, SideTokens
from xmrank.rankers.token_ranker import TokenRanker
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.train.projected_tokens import project_rows
from xmrank.train.token_sides import gather_side

TOKEN_SIDES: dict[Direction, tuple[Side, Side]] = {"i2t": ("image", "text"), "t2i": ("text", "image")}
"""The sides of the queries and of the gallery."""
KEPT = 2**28
"""Numbers of a gallery's projected tokens, and of its refined embeddings, that a process keeps in memory: 1 GiB."""


def make_recipe(store: EmbeddingStore) -> TokenRecipe | None:
    """How the tokens of a store were made; None: it has none, or they were imported."""
    settings = store.manifest.config.get("tokens") or {}
    # Of imported tokens, a store knows their width and number format only.
    if settings.keys() != {field.name for field in fields(TokenSettings)}:
        return None
    return TokenRecipe(TokenSettings(**settings), store.directory)


def check_query_tokens(store: EmbeddingStore, about: dict[str, Any], kind: Kind, source: str) -> None:
    """Refuse a ranker that reads tokens where those of the queries and of the gallery do not fit it.

    Args:
        store: the gallery.
        about: what the ranker's JSON says.
        kind: of the queries.
        source: the ranker as it was given.

    Raises:
        ConfigError: queries or a gallery without tokens, or a gallery whose tokens were imported.
        DataError: a ranker of tokens that were made otherwise.
    """
    if not about.get("tokens"):
        return
    reads = f"{about['ranker']} reads tokens"
    if not store.has_tokens:
        raise ConfigError(
            f"--ranker {source}: {reads}, and {store.label} has none; make it with `xmrank embed --tokens`"
        )
    if make_recipe(store) is None:
        raise ConfigError(
            f"--ranker {source}: {reads}, and those of {store.label} were imported: nothing says how to make those of "
            "new queries; `rerank` in Python takes them as query_tokens"
        )
    if kind == "embedding":
        raise ConfigError(
            f"{FLAG}: {reads}, and embeddings have none; give captions or images, whose tokens are made as the "
            "gallery's were"
        )
    # The axes of a projection are fitted on each data set anew; those of one store are the same.
    if about.get("embeddings") == store.fingerprint:
        return
    own, theirs = store.encoder.get("tokens"), (about.get("encoder") or {}).get("tokens")
    if own is None or own != theirs:
        raise DataError(
            f"--ranker {source}: trained on tokens of another layer, grid or projection than those of the gallery "
            f"{store.directory}; tokens of two stores fit each other with the same --image-token-layer, "
            "--text-token-layer and --token-grid, and --token-width 0"
        )


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
