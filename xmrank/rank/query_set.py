"""What every reader of new queries returns."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from xmrank.config.common import Direction

Kind = Literal["text", "image", "embedding"]
KIND_DIRECTIONS: dict[Kind, Direction] = {"text": "t2i", "image": "i2t"}
"""The direction of queries of a kind; embeddings may be of either."""
FLAG = "--queries"


@dataclass(frozen=True)
class QuerySet:
    """The queries, in order.

    Attributes:
        ids: all different.
        shown: the captions, or the images' paths from their folder; empty texts where there is nothing to show.
        items: the captions, or the images' paths; empty for embeddings.
        embeddings: float32 [queries, d] of unit length; None for the other kinds.
        fingerprint: of the content; for images in a folder, of their paths and sizes.
        left_out: query or row → why it is none, such as an empty caption.
    """

    kind: Kind
    ids: list[str]
    shown: list[str]
    items: list[str]
    embeddings: np.ndarray | None
    fingerprint: str
    left_out: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)
