"""The CPU's part of encoding: reads, decodes and resizes images, and turns captions into tokens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from xmrank.embed.decoding import PixelTransform
from xmrank.embed.encoder import tokenizer_of
from xmrank.embed.image_files import make_batches, prepare_images
from xmrank.embed.reuse import KnownImages
from xmrank.embed.shard_report import ItemBatch, ShardReport
from xmrank.embed.shards import PreparedShard, Shard


@dataclass(frozen=True)
class Preparer:
    """Prepares shards for an encoder without its model; small enough to be sent to any process.

    Attributes:
        pixels: the encoder's transform.
        model: the encoder's name, to make the tokenizer from: with its vocabulary that would be too large to send.
        batch_size: items the encoder takes at once.
        reuse: store whose embeddings are copied where an image's bytes are the same.
        settings: written into every report.
    """

    pixels: PixelTransform
    model: str
    batch_size: int
    reuse: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def known(self) -> KnownImages | None:
        """The images of the store ``reuse``, opened once a process."""
        return KnownImages.from_directory(self.reuse) if self.reuse else None

    @cached_property
    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """The encoder's tokenizer, made once a process."""
        return tokenizer_of(self.model)

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached properties: an open store and a tokenizer are made again where they are needed.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def prepare_shard(self, shard: Shard, work: Path) -> PreparedShard:
        """A shard's batches, each made when it is iterated over.

        Raises:
            OSError: during iteration: the images' store does not answer.
        """
        report = ShardReport(len(shard), settings=self.settings)
        items = shard.read_items(work)
        if shard.kind == "text":
            # Captions are known by their text, so the plan names the copied ones already.
            copied = enumerate(items["copied"].to_pylist())
            report.copied = {index: row for index, row in copied if row is not None}
            return PreparedShard(report, self.make_token_batches(items["item"].to_pylist(), report))
        images = prepare_images(self.pixels, items["item"].to_pylist(), report, row=shard.start, known=self.known)
        return PreparedShard(report, make_batches(images, self.batch_size))

    def make_token_batches(self, texts: list[str], report: ShardReport) -> Iterator[ItemBatch]:
        """Batches of the captions that are not copied."""
        # Only what is not copied goes to the encoder.
        left = [index for index in range(len(texts)) if index not in report.copied]
        for first in range(0, len(left), self.batch_size):
            chosen = left[first : first + self.batch_size]
            yield chosen, self.tokenizer([texts[index] for index in chosen])
