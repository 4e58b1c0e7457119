"""Training lists that are drawn anew every epoch, by the strategies that mine lists."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import faiss
import numpy as np

from xmrank.config import Direction, MineConfig, TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.assemble import RankedItems, assemble_lists
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.chunks import CHUNK, store_sides
from xmrank.mine.gallery_index import make_flat_index
from xmrank.mine.pool import QueryPool, make_pool, one_per_image
from xmrank.mine.relevance import grade_labels
from xmrank.mine.roles import RoleImages
from xmrank.mine.strategies import STRATEGIES, QueryChunk, count_needed_negatives
from xmrank.runtime.errors import ConfigError

FRESH_STREAM = 0xF2E54
"""Separates these draws from others under the same seed."""


@dataclass(frozen=True)
class ListSampler:
    """Draws the training lists of one direction. They follow from seed and epoch alone.

    Attributes:
        mining: how the mined lists were made.
        config: how these are to be drawn.
    """

    store: EmbeddingStore
    direction: Direction
    mining: MineConfig
    config: TrainConfig

    def __call__(self, shares: Sequence[np.ndarray], seed: int, epoch: int) -> CandidateLists:
        """The lists of an epoch: every image asks, or one of its captions, another one in another epoch.

        Args:
            shares: image rows; queries and candidates of a list are of one share.
            seed, epoch: of the draws.
        """
        generator = np.random.default_rng([seed, FRESH_STREAM, epoch])
        drawn = [lists for share in shares for lists in self._share(share, generator)]
        lists = CandidateLists.join(drawn)
        return replace(lists, labels=grade_labels(lists, self.store, self.direction, "train", self.mining))

    def check(self, shares: Sequence[np.ndarray]) -> None:
        """Refuse shares that are too small.

        Raises:
            ConfigError: says which flag asks for more than there is.
        """
        if self.config.sampling == "random-hard":
            if self.config.sampling_positives == "retrieved" and self.mining.leaves_out:
                raise ConfigError(
                    "--sampling-positives retrieved: the lists were mined with --positive-margin or "
                    "--duplicate-cosine, which choose negatives by the positive; expected --sampling-positives mined"
                )
            flag, needed = count_needed_negatives(self._mining())
            pools = [self._pool(share) for share in shares]
            least = min(len(pool.gallery) - int((pool.last - pool.first).max(initial=0)) for pool in pools)
            if least < needed:
                raise ConfigError(
                    f"--sampling random-hard: the lists were mined with {flag} {needed}, but a share of the training "
                    f"images has only {least} {self.direction} items of other images (--refine.members makes them)"
                )

    def count(self, images: np.ndarray) -> int:
        """How many lists an epoch has."""
        pool = self._pool(images)
        return len(np.unique(pool.first))

    @cached_property
    def width(self) -> int:
        """The length that no list exceeds, whatever is drawn; batches have it, lest a draw change that of dropout."""
        if self.config.sampling == "sub-gallery":
            return self.config.sampling_top
        own = np.bincount(self.store.image_of_caption) if self.direction == "i2t" else np.ones(1, np.int64)
        return self.mining.hard_negatives + (int(own.max()) if self._mining().positives == "all" else 1)

    def _mining(self) -> MineConfig:
        """The mining's configuration, as far as it goes for these lists."""
        if self.config.sampling == "random-hard":
            mined = self.config.sampling_positives == "mined"
            return replace(
                self.mining, strategy="random-hard", positives=self.mining.positives if mined else "retrieved"
            )
        return replace(
            self.mining,
            strategy="top-k",
            positives="retrieved",
            hard_negatives=self.config.sampling_top,
            index="flat",
            positive_margin=None,
            duplicate_cosine=None,
        )

    def _share(self, images: np.ndarray, generator: np.random.Generator) -> Iterator[CandidateLists]:
        parts = [images]
        if self.config.sampling == "sub-gallery":
            count = max(1, round(len(images) / self.config.sampling_images))
            parts = [np.sort(part) for part in np.array_split(generator.permutation(images), count)]
        for part in parts:
            pool = self._pool(part)
            if self.direction == "t2i":
                pool = one_per_image(pool, generator)
            yield from self._lists(pool, generator)

    def _pool(self, images: np.ndarray) -> QueryPool:
        return make_pool(self.store, RoleImages("train", "", images), self.direction)

    def _lists(self, pool: QueryPool, generator: np.random.Generator) -> Iterator[CandidateLists]:
        mining, (asking, side) = self._mining(), store_sides(self.store, self.direction)
        index = make_flat_index(side, pool.gallery)
        for start in range(0, len(pool.queries), CHUNK):
            part = pool[start : start + CHUNK]
            queries = asking[part.queries].astype(np.float32)
            chunk = QueryChunk(
                part,
                queries,
                side,
                generator,
                mining,
                index=lambda: index,
                nearest=lambda queries=queries: search(index, queries, self.config.sampling_top),  # type: ignore[misc]
            )
            yield assemble_lists(part, STRATEGIES[mining.strategy](chunk), generator)


def search(index: faiss.IndexFlat, queries: np.ndarray, width: int) -> RankedItems:
    """The nearest items of each query; between equal similarities the gallery's order decides."""
    similarity, items = index.search(queries, min(width, index.ntotal))  # type: ignore[call-arg]
    order = np.lexsort((items, -similarity), axis=1)
    return RankedItems(np.take_along_axis(items, order, 1), np.take_along_axis(similarity, order, 1))
