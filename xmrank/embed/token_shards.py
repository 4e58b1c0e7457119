"""The tokens of a shard: kept while its batches are encoded, written beside its embeddings."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmrank.config.embed import TokenSettings
from xmrank.embed.encoder import Encoder
from xmrank.embed.token_extraction import TokenBatch, TokenExtractor
from xmrank.embed.token_projection import PROJECTION, TokenProjection, read_projections
from xmrank.embed.token_store import Side, TokenArray, count_to_offsets, quantise_tokens
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_file, write_array


@dataclass(frozen=True)
class TokenRecipe:
    """How tokens are made; small enough to be sent to any process.

    Attributes:
        settings: layers, grid and number format.
        directory: with the projections; None: there are none.
    """

    settings: TokenSettings
    directory: Path | None = None

    @cached_property
    def projections(self) -> dict[Side, TokenProjection]:
        """Of the sides whose tokens are made narrower; read once a process."""
        return (read_projections(self.directory) if self.directory else None) or {}

    def __getstate__(self) -> dict[str, Any]:
        # Without the projections, which are read again where they are needed.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def describe(self) -> dict[str, Any]:
        """What tokens must have in common to be compared: layers, grid and axes."""
        axes = sha256_file(self.directory / PROJECTION) if self.directory else None
        return {name: getattr(self.settings, name) for name in ("image_layer", "text_layer", "grid")} | {"axes": axes}

    def make_stored(self, side: Side, values: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Tokens float32 [n, channels] as they are stored: [n, width] and, of int8, the scales float32 [n]."""
        projection = self.projections.get(side)
        made = (projection.project(values) if projection else values).cpu().numpy()
        if self.settings.dtype == "int8":
            return quantise_tokens(made)
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinity, and is refused as such
            return made.astype(np.float16), None


class ShardTokens:
    """The tokens of one shard's items, which may come in any order.

    Args:
        recipe: how they are made.
        side: of the items.
        encoder: of the embeddings, and of the tokens.
        items: in the shard; one that never comes has no tokens.
    """

    def __init__(self, recipe: TokenRecipe, side: Side, encoder: Encoder, items: int) -> None:
        self.recipe, self.side = recipe, side
        self.extractor = TokenExtractor(encoder, recipe.settings)
        self.counts = np.zeros(items, np.int64)
        self.values: dict[int, np.ndarray] = {}
        self.scales: dict[int, np.ndarray] = {}

    def encode(self, indices: list[int], inputs: Tensor) -> Tensor:
        """Encode a batch and keep its tokens.

        Args:
            indices: of its items in the shard.
            inputs: as for the encoder, [B, …].

        Returns:
            The embeddings, float32 [B, d].
        """
        encode = self.extractor.encode_images if self.side == "image" else self.extractor.encode_tokens
        embeddings, batch = encode(inputs)
        self._keep(indices, batch)
        return embeddings

    def _keep(self, indices: list[int], batch: TokenBatch) -> None:
        if not torch.isfinite(batch.values).all():
            raise DataError(f"{self.extractor.encoder.name}: returned NaN or infinity for the tokens of a {self.side}")
        values, scales = self.recipe.make_stored(self.side, batch.values)
        if not np.isfinite(values if scales is None else scales).all():
            raise DataError(f"{self.side} tokens: beyond {values.dtype}; choose another layer, or --token-dtype int8")
        self.counts[indices] = batch.counts
        borders = np.cumsum(batch.counts)[:-1]
        self.values |= zip(indices, np.split(values, borders), strict=True)
        if scales is not None:
            self.scales |= zip(indices, np.split(scales, borders), strict=True)

    def join(self) -> TokenArray | None:
        """The tokens of all items, in the items' order; None: none has come."""
        values, scales = (
            np.concatenate([parts[index] for index in sorted(parts)]) if parts else None
            for parts in (self.values, self.scales)
        )
        return None if values is None else TokenArray(values, count_to_offsets(self.counts), scales)

    def write(self, paths: "TokenPaths") -> list[Path]:
        """Write the tokens in the items' order, and the number of every item's; returns the files."""
        joined = self.join()
        arrays = {paths.counts: self.counts}
        if joined is not None:
            arrays[paths.values] = joined.values
            if joined.scales is not None:
                arrays[paths.scales] = joined.scales
        for path, array in arrays.items():
            write_array(path, array)
        return list(arrays)


@dataclass(frozen=True)
class TokenPaths:
    """The files of one shard's tokens.

    Attributes:
        values: [tokens, width] as in the store; missing where no item has tokens.
        scales: float32 [tokens], only of int8.
        counts: int64 [items].
    """

    values: Path
    scales: Path
    counts: Path

    @classmethod
    def beside(cls, array: Path) -> "TokenPaths":
        """The files beside a shard's array of embeddings."""
        return cls(*(array.with_name(f"{array.stem}-{part}.npy") for part in ("tokens", "scales", "counts")))
