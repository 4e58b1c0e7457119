"""Before anything is encoded: what tokens there will be, and what they take on the disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from xmrank.config.embed import TokenSettings
from xmrank.datasets.dataset import Dataset
from xmrank.embed.encoder import Encoder
from xmrank.embed.token_extraction import TokenExtractor, find_words
from xmrank.embed.token_store import Side
from xmrank.runtime.errors import DataError
from xmrank.runtime.quantities import format_bytes
from xmrank.runtime.storage import count_free_bytes

COUNTED = 2048
"""Captions that are tokenised to estimate how many tokens all have."""


@dataclass(frozen=True)
class TokenShape:
    """What the tokens of an encoder will be.

    Attributes:
        channels: numbers in a token of the layer, by side.
        an_image: tokens an image.
    """

    channels: dict[Side, int]
    an_image: int

    def width(self, side: Side, settings: TokenSettings) -> int:
        """Numbers in a stored token."""
        return min(self.channels[side], settings.width or self.channels[side])

    def bytes_a_token(self, side: Side, settings: TokenSettings) -> int:
        """Bytes of a stored token, with its scale."""
        width = self.width(side, settings)
        return width + 4 if settings.dtype == "int8" else 2 * width

    def narrowed(self, settings: TokenSettings) -> list[Side]:
        """The sides whose tokens are wider than they are stored."""
        return [side for side, channels in self.channels.items() if channels > self.width(side, settings)]


def measure_shape(encoder: Encoder, settings: TokenSettings) -> TokenShape:
    """The tokens of one grey image and of one caption.

    Raises:
        ConfigError: the model has no such layer.
    """
    from PIL import Image

    extractor = TokenExtractor(encoder, settings)
    _, image = extractor.encode_images(encoder.pixels.prepare(Image.new("RGB", (64, 64)))[None])
    _, text = extractor.encode_tokens(encoder.tokenizer(["a"]))
    return TokenShape({"image": image.values.shape[1], "text": text.values.shape[1]}, image.counts[0])


def estimate_words(texts: pa.Array | pa.ChunkedArray, extractor: TokenExtractor) -> float:
    """Tokens a caption, from captions spread evenly over all."""
    chosen = np.unique(np.linspace(0, len(texts) - 1, COUNTED).astype(np.int64))
    ids = extractor.encoder.tokenizer(texts.take(pa.array(chosen)).to_pylist())
    return float(find_words(ids, extractor.special_ids).sum(1).double().mean())


@dataclass(frozen=True)
class TokenBudget:
    """What the tokens take on the disk.

    Attributes:
        tokens: an item, by side.
        bytes: of an item, by side.
        items: of each side.
    """

    tokens: dict[Side, float]
    bytes: dict[Side, float]
    items: dict[Side, int]

    @property
    def total(self) -> float:
        """Bytes of all tokens."""
        return sum(self.bytes[side] * count for side, count in self.items.items())

    def describe(self) -> str:
        """The line that is printed before the work begins."""
        sides = [
            f"{self.tokens[side]:.4g} tokens and {self.bytes[side]:,.0f} bytes {name}"
            for side, name in (("image", "an image"), ("text", "a caption"))
            if side in self.items
        ]
        return f"embed: {', '.join(sides)}: {format_bytes(self.total)} of tokens in all"

    def refuse_small_disk(self, directory: Path, written: int = 0, copies: int = 2) -> None:
        """Raise DataError where the disk does not hold the tokens.

        Args:
            directory: of the store, which exists.
            written: bytes that an interrupted run has left there.
            copies: 2: shards and, at the end, the store's own files, both until the store is finished.
        """
        needed, free = copies * self.total - written, count_free_bytes(directory)
        if needed > free:
            raise DataError(
                f"{directory}: tokens take {format_bytes(needed)} while they are written, {format_bytes(free)} are "
                "free on this disk; give a smaller --token-grid or --token-width, or --token-dtype int8"
            )


@dataclass(frozen=True)
class TokenPlan:
    """What the tokens of a data set will be, and what they take."""

    shape: TokenShape
    budget: TokenBudget


def plan_tokens(encoder: Encoder, settings: TokenSettings, dataset: Dataset) -> TokenPlan:
    """The tokens that an encoder will give for a data set.

    Raises:
        ConfigError: the model has no such layer.
    """
    shape = measure_shape(encoder, settings)
    words = estimate_words(dataset.captions["text"], TokenExtractor(encoder, settings))
    return TokenPlan(shape, plan_budget(shape, settings, dataset, words))


def plan_budget(shape: TokenShape, settings: TokenSettings, dataset: Dataset, words: float) -> TokenBudget:
    """What the tokens of a data set take; ``words`` are tokens a caption."""
    tokens: dict[Side, float] = {"image": shape.an_image, "text": words}
    # Each item has an offset too.
    sizes = {side: 8 + count * shape.bytes_a_token(side, settings) for side, count in tokens.items()}
    return TokenBudget(tokens, sizes, {"image": len(dataset.images), "text": len(dataset.captions)})
