"""The tokens of a store for the lists of one direction."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from xmrank.config import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_store import TokenArray
from xmrank.rankers import ListTokens, RankerParameters, SideTokens, TokenSizes
from xmrank.rankers.parameters import TokenParameters
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class TokenSides:
    """The tokens of all rows of both sides of a store.

    Attributes:
        query: of the query side.
        candidate: of the other side.
        text: the side that captions are on.
    """

    query: TokenArray
    candidate: TokenArray
    text: Literal["query", "candidate"]

    @classmethod
    def of(cls, store: EmbeddingStore, direction: Direction) -> "TokenSides":
        """The tokens of a direction.

        Raises:
            DataError: the store has none.
        """
        image, text = store.tokens("image"), store.tokens("text")
        return cls(image, text, "candidate") if direction == "i2t" else cls(text, image, "query")

    @property
    def sizes(self) -> TokenSizes:
        """The sizes of a ranker that reads these tokens."""
        images, texts = (self.candidate, self.query) if self.text == "query" else (self.query, self.candidate)
        return TokenSizes(
            text=self.text,
            text_width=texts.width,
            text_longest=max(texts.longest, 1),
            image_width=images.width,
            image_longest=max(images.longest, 1),
            image_grid=find_grid(images),
        )

    def gather(self, query_rows: np.ndarray, candidate_rows: np.ndarray, device: torch.device) -> ListTokens:
        """The tokens of some lists, every row of the store once.

        Args:
            query_rows: int64 [lists].
            candidate_rows: int64 [lists, items]; 0 at padding.
            device: where they are put.
        """
        query = gather_side(self.query, query_rows, device)
        return ListTokens(query, gather_side(self.candidate, candidate_rows, device))


def find_grid(images: TokenArray) -> int:
    """The rows, and columns, of the square grid that the tokens of every image may be; 0: their number is no square."""
    side = math.isqrt(images.longest)
    return side if images.regular and side**2 == images.longest else 0


def gather_side(tokens: TokenArray, rows: np.ndarray, device: torch.device, longest: int | None = None) -> SideTokens:
    """The tokens of some rows, every row once.

    Args:
        tokens: of one side.
        rows: int64 of any shape.
        device: where they are put.
        longest: tokens to pad to; None: as many as the longest of these rows has.
    """
    unique, index = np.unique(rows, return_inverse=True)
    if longest is None:
        # Also of no rows, which a process of a group may have: a grid stays a grid, and at least one token is needed.
        counts = tokens.counts if tokens.regular else tokens.counts[unique]
        longest = max(1, int(counts.max(initial=0)))
    values, mask = tokens.gather(unique, longest)
    return SideTokens(
        torch.from_numpy(values).to(device),
        torch.from_numpy(mask).to(device),
        torch.from_numpy(index.reshape(rows.shape)).to(device),
    )


def check_tokens(parameters: RankerParameters, store: EmbeddingStore) -> None:
    """Refuse a ranker that reads tokens which the store does not have.

    Raises:
        ConfigError: names the ranker, or the flag.
    """
    if not isinstance(parameters, TokenParameters):
        return
    if not store.has_tokens:
        raise ConfigError(
            f"--ranker {parameters.name}: reads tokens, and {store.label} has none; make it with "
            "`xmrank embed --tokens`"
        )
    if parameters.token_convolutions and not find_grid(store.tokens("image")):
        raise ConfigError(
            f"--ranker.token-convolutions {parameters.token_convolutions}: expected 0, since the image tokens of "
            f"{store.label} are no square grid"
        )
