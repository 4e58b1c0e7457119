"""The CPU's part of encoding: reads, decodes and resizes images, and turns captions into tokens."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmrank.datasets.locations import container_of, read_bytes
from xmrank.datasets.uris import suffix_of
from xmrank.embed.decoding import PixelTransform, decode_image
from xmrank.embed.encoder import Encoder, tokenizer_of
from xmrank.embed.reuse import KnownImages
from xmrank.embed.shards import ItemBatch, PreparedShard, Shard, ShardReport
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import URI

AHEAD = 16
"""Remote images that are requested while earlier ones are decoded."""


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
        images = self.prepare_images(shard.start, items["item"].to_pylist(), report)
        return PreparedShard(report, make_batches(images, self.batch_size))

    def make_token_batches(self, texts: list[str], report: ShardReport) -> Iterator[ItemBatch]:
        """Batches of the captions that are not copied."""
        # Only what is not copied goes to the encoder.
        left = [index for index in range(len(texts)) if index not in report.copied]
        for first in range(0, len(left), self.batch_size):
            chosen = left[first : first + self.batch_size]
            yield chosen, self.tokenizer([texts[index] for index in chosen])

    def prepare_images(self, row: int, addresses: list[str], report: ShardReport) -> Iterator[tuple[int, Tensor]]:
        """Index and pixels of the images that can be read and are not copied.

        Args:
            row: of the first image.
            addresses: of the images.
            report: gets size and hash of every image, and the broken and copied ones.
        """
        for index, fetch in enumerate(plan_reads(addresses)):
            # For an image that cannot be read, size 0 and the hash of nothing are recorded.
            content, pixels = b"", None
            try:
                content = fetch()
                digest = hashlib.sha256(content).hexdigest()
                # Known by its bytes: the same image may have another name in the other store.
                copied = self.known.find_row(digest) if self.known else None
                if copied is None:
                    pixels = self.pixels.prepare(decode_image(content))
                else:
                    report.copied[index] = copied
            except DataError as error:
                digest = hashlib.sha256(content).hexdigest()
                report.broken[row + index] = str(error)
            # Recorded for every image, also a broken one, so that a later run sees whether it has changed.
            report.bytes.append(len(content))
            report.sha256.append(digest)
            if pixels is not None:
                yield index, pixels


def encode_files(addresses: list[str], encoder: Encoder, report: ShardReport, *, row: int) -> np.ndarray:
    """The embeddings of a batch of images [images, d]; one that cannot be read gets zeros, and its reason is reported.

    Raises:
        OSError: the images' store does not answer.
    """
    result = np.zeros((len(addresses), encoder.dimensions), np.float32)
    preparer = Preparer(encoder.pixels, encoder.name, len(addresses))
    images = preparer.prepare_images(row, addresses, report)
    for indices, pixels in make_batches(images, preparer.batch_size):
        result[indices] = encoder.encode_images(pixels).cpu().numpy()
    return result


def make_batches(items: Iterable[tuple[int, Tensor]], size: int) -> Iterator[ItemBatch]:
    """Batches of items as they come; the last one may be smaller."""
    indices: list[int] = []
    tensors: list[Tensor] = []
    for index, tensor in items:
        indices.append(index)
        tensors.append(tensor)
        if len(indices) == size:
            yield indices, torch.stack(tensors)
            indices, tensors = [], []
    if indices:
        yield indices, torch.stack(tensors)


def plan_reads(addresses: Sequence[str]) -> Iterator[Callable[[], bytes]]:
    """For each image, in order, a function that returns its bytes, or raises what ``read_bytes`` does.

    Remote images are requested some at a time, ahead of those that are being decoded; local files and the rows of one
    open parquet file are faster without.
    """
    # All addresses of a data set have the same root, so the first one decides.
    if not addresses or not URI.match(addresses[0]) or suffix_of(container_of(addresses[0])) == ".parquet":
        yield from (partial(read_bytes, address) for address in addresses)
        return
    with ThreadPoolExecutor(AHEAD) as pool:
        # At most AHEAD requests are open, so memory stays bounded however many images there are.
        pending = deque(pool.submit(read_bytes, address) for address in addresses[:AHEAD])
        for index in range(len(addresses)):
            yield pending.popleft().result
            if index + AHEAD < len(addresses):
                pending.append(pool.submit(read_bytes, addresses[index + AHEAD]))
