"""What a CPU does for an encoder: images read, decoded and resized, captions turned into tokens."""

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
from xmrank.embed.decoding import PixelTransform, decode
from xmrank.embed.encoder import Encoder, tokenizer_of
from xmrank.embed.reuse import KnownImages
from xmrank.embed.shards import ItemBatch, PreparedShard, Shard, ShardReport
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import URI

AHEAD = 16
"""Remote images that are asked for while earlier ones are decoded."""


@dataclass(frozen=True)
class Preparer:
    """Prepares shards for an encoder without its model; small enough to be sent to any process.

    Attributes:
        pixels: the encoder's.
        model: its name, which the tokenizer is found by: with its vocabulary it would be too large to send.
        batch_size: items the encoder takes at once.
        reuse: store whose embeddings are taken over where an image's bytes are the same.
        settings: what every report records.
    """

    pixels: PixelTransform
    model: str
    batch_size: int
    reuse: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def known(self) -> KnownImages | None:
        """The images of the store ``reuse``, opened once a process."""
        return KnownImages.of(self.reuse) if self.reuse else None

    @cached_property
    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """The encoder's tokenizer, made once a process."""
        return tokenizer_of(self.model)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def prepare(self, shard: Shard, work: Path) -> PreparedShard:
        """A shard's batches, each made when it is asked for.

        Raises:
            OSError: when a batch is taken: the images' store does not answer.
        """
        report = ShardReport(len(shard), settings=self.settings)
        items = shard.items(work)
        if shard.kind == "text":
            copied = enumerate(items["copied"].to_pylist())
            report.copied = {place: row for place, row in copied if row is not None}
            return PreparedShard(report, self.tokens(items["item"].to_pylist(), report))
        return PreparedShard(
            report, batched(self.images(shard.start, items["item"].to_pylist(), report), self.batch_size)
        )

    def tokens(self, texts: list[str], report: ShardReport) -> Iterator[ItemBatch]:
        """Batches of the captions that are not copied."""
        places = [place for place in range(len(texts)) if place not in report.copied]
        for first in range(0, len(places), self.batch_size):
            chosen = places[first : first + self.batch_size]
            yield chosen, self.tokenizer([texts[place] for place in chosen])

    def images(self, row: int, addresses: list[str], report: ShardReport) -> Iterator[tuple[int, Tensor]]:
        """Place and pixels of the images that can be read and are not copied; fills the report from ``row`` on."""
        for place, fetch in enumerate(fetches(addresses)):
            content, pixels = b"", None
            try:
                content = fetch()
                digest = hashlib.sha256(content).hexdigest()
                copied = self.known.row(digest) if self.known else None
                if copied is None:
                    pixels = self.pixels.prepared(decode(content))
                else:
                    report.copied[place] = copied
            except DataError as error:
                digest = hashlib.sha256(content).hexdigest()
                report.broken[row + place] = str(error)
            report.bytes.append(len(content))
            report.sha256.append(digest)
            if pixels is not None:
                yield place, pixels


def encode_files(addresses: list[str], encoder: Encoder, report: ShardReport, *, row: int) -> np.ndarray:
    """The embeddings of a batch of images [images, d]; one that cannot be read gives zeros and a reason in the report.

    Raises:
        OSError: the images' store does not answer.
    """
    result = np.zeros((len(addresses), encoder.dimensions), np.float32)
    preparer = Preparer(encoder.pixels, encoder.name, len(addresses))
    for places, pixels in batched(preparer.images(row, addresses, report), preparer.batch_size):
        result[places] = encoder.encode_images(pixels).cpu().numpy()
    return result


def batched(items: Iterable[tuple[int, Tensor]], size: int) -> Iterator[ItemBatch]:
    """Batches of what comes, the last one smaller."""
    places: list[int] = []
    tensors: list[Tensor] = []
    for place, tensor in items:
        places.append(place)
        tensors.append(tensor)
        if len(places) == size:
            yield places, torch.stack(tensors)
            places, tensors = [], []
    if places:
        yield places, torch.stack(tensors)


def fetches(addresses: Sequence[str]) -> Iterator[Callable[[], bytes]]:
    """For each image, in order, what returns its bytes or raises what ``read_bytes`` does.

    Remote images are asked for some at a time, ahead of those that are being decoded; local disks and the rows of one
    open parquet file are faster without.
    """
    if not addresses or not URI.match(addresses[0]) or suffix_of(container_of(addresses[0])) == ".parquet":
        yield from (partial(read_bytes, address) for address in addresses)
        return
    with ThreadPoolExecutor(AHEAD) as pool:
        asked = deque(pool.submit(read_bytes, address) for address in addresses[:AHEAD])
        for place in range(len(addresses)):
            yield asked.popleft().result
            if place + AHEAD < len(addresses):
                asked.append(pool.submit(read_bytes, addresses[place + AHEAD]))
