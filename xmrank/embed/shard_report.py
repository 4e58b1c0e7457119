"""What happened to the items of a shard, and the batches that they are encoded in."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

ItemBatch = tuple[list[int], Tensor]
"""Indices in the shard, and the encoder's input for them: pixels or tokens."""


@dataclass
class ShardReport:
    """What happened to a shard's items.

    Attributes:
        broken: row → reason, of images that could not be read; their embeddings are rows of zeros.
        bytes, sha256: of every image file as it was read; empty for captions.
        copied: index in the shard → row in the store of ``--reuse`` that the embedding was copied from.
        settings: chosen by the first run and kept by later ones: the batch size, the store of ``--reuse``.
    """

    items: int
    broken: dict[int, str] = field(default_factory=dict)
    bytes: list[int] = field(default_factory=list)
    sha256: list[str] = field(default_factory=list)
    copied: dict[int, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
