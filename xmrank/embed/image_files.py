"""Image files on their way to an encoder: read, hashed, decoded, resized, and put into batches."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from xmrank.datasets.locations import container_of, read_bytes
from xmrank.datasets.uris import suffix_of
from xmrank.embed.decoding import PixelTransform, decode_image
from xmrank.embed.shard_report import ItemBatch, ShardReport
from xmrank.runtime.errors import DataError
from xmrank.runtime.remote_path import URI

AHEAD = 16
"""Remote images that are requested while earlier ones are decoded."""


class KnownRows(Protocol):
    """Finds images of another store by their bytes."""

    def find_row(self, sha256: str) -> int | None:
        """The row of the image with this hash; None if there is none."""


def prepare_images(
    transform: PixelTransform, addresses: list[str], report: ShardReport, *, row: int, known: KnownRows | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Index and pixels of the images that can be read and are not copied.

    Args:
        transform: the encoder's.
        addresses: of the images.
        report: gets size and hash of every image, and the broken and copied ones.
        row: of the first image.
        known: finds images that are copied by their hash; None: none is.

    Raises:
        OSError: the images' store does not answer.
    """
    for index, fetch in enumerate(plan_reads(addresses)):
        # For an image that cannot be read, size 0 and the hash of nothing are recorded.
        content, pixels = b"", None
        try:
            content = fetch()
            digest = hashlib.sha256(content).hexdigest()
            # Known by its bytes: the same image may have another name in the other store.
            copied = known.find_row(digest) if known else None
            if copied is None:
                pixels = transform.prepare(decode_image(content))
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
