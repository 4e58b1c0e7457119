"""Training lists that are drawn again every epoch, by the strategies that mine lists."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from xmrank.config import Direction, MineConfig, TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.assemble import RankedItems, assemble_lists
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.chunks import CHUNK, store_sides
from xmrank.mine.gallery_index import make_flat_index
from xmrank.mine.pool import QueryPool, make_pool, one_per_image
from xmrank.mine.query_chunk import QueryChunk
from xmrank.mine.relevance import grade_labels
from xmrank.mine.roles import RoleImages
from xmrank.mine.strategies import STRATEGIES, count_searched
from xmrank.runtime.errors import ConfigError

if TYPE_CHECKING:
    import faiss

SAMPLE_STREAM = 0xF2E54
"""Separates these draws from others under the same seed."""


@dataclass(frozen=True)
class ListSampler:
    """Draws the training lists of one direction. They follow from seed and epoch alone.

    Attributes:
        mining: how the mined lists were made.
        config: how these lists are to be drawn.
    """

    store: EmbeddingStore
    direction: Direction
    mining: MineConfig
    config: TrainConfig

    def draw_lists(self, folds: Sequence[np.ndarray], seed: int, epoch: int, *, graded: bool = True) -> CandidateLists:
        """The lists of an epoch: one for every image (i2t), or for one caption of every image, drawn each epoch (t2i).

        Args:
            folds: image rows; the query and the candidates of a list are of one fold.
            seed: of the draws.
            epoch: of the draws.
            graded: whether labels are graded as those of the mined lists are; otherwise they are binary.
        """
        # One generator for all folds: the draws of a fold follow those of the fold before.
        generator = np.random.default_rng([seed, SAMPLE_STREAM, epoch])
        drawn: list[CandidateLists] = []
        if self.config.sampling == "in-batch":
            for gallery in self._split_into_batches(folds, generator):
                drawn += self._draw_gallery(gallery, generator)
        else:
            for fold in folds:
                drawn += self._draw_fold(fold, generator)
        lists = CandidateLists.join(drawn)
        if not graded:
            return lists
        return replace(lists, labels=grade_labels(lists, self.store, self.direction, "train", self.mining))

    def check_folds(self, folds: Sequence[np.ndarray]) -> str:
        """Refuse folds that are too small.

        Returns:
            One line where lists are drawn from fewer candidates than the mined ones; otherwise empty.

        Raises:
            ConfigError: names the flag that needs more than there is.
        """
        if self.config.sampling != "random-hard":
            return ""
        if self.config.sampling_positives == "retrieved" and self.mining.leaves_out:
            raise ConfigError(
                "--sampling-positives retrieved: the lists were mined with --positive-margin or --duplicate-cosine, "
                "which choose negatives by the positive; expected --sampling-positives mined"
            )
        least = min(count_others(self._make_pool(fold)) for fold in folds)
        if least < 1:
            raise ConfigError(
                f"--sampling random-hard: a fold of the training images has no {self.direction} items of other images; "
                "expected more images, a smaller --refine.members, or --sampling fixed --refine.members 0"
            )
        wanted = self.list_config.random_candidates
        if least >= wanted:
            return ""
        return (
            f"{self.direction} lists are the hardest of {least} random candidates, not of {wanted}: a fold of the "
            "training images has no more (--refine.members makes the folds)"
        )

    def count_lists(self, images: np.ndarray) -> int:
        """The number of lists of an epoch: one for every image with a caption."""
        pool = self._make_pool(images)
        return len(np.unique(pool.first))

    @cached_property
    def width(self) -> int:
        """The length that no list exceeds, whatever is drawn.

        Batches are padded to it, so that the shape of dropout does not depend on what was drawn.
        """
        if self.config.sampling == "sub-gallery":
            return self.config.sampling_top
        most_captions = int(np.bincount(self.store.image_of_caption).max()) if self.direction == "i2t" else 1
        most_positives = most_captions if self.list_config.positives == "all" else 1
        longest = self.list_config.hard_negatives + most_positives
        # In-batch lists hold no more than the items of a batch.
        return min(longest, self.config.batch_size * most_captions) if self.config.sampling == "in-batch" else longest

    @property
    def list_config(self) -> MineConfig:
        """How the lists are made: as the mined ones were, but for what the configuration of the draw says."""
        if self.config.sampling == "random-hard":
            choice = self.config.sampling_positives
            mined = choice == "mined" or (choice == "auto" and self.mining.leaves_out)
            return replace(
                self.mining,
                strategy="random-hard",
                positives=self.mining.positives if mined else "retrieved",
                # Lists of another strategy may be longer than the draw that they did not need.
                random_candidates=max(self.mining.random_candidates, self.mining.hard_negatives),
            )
        if self.config.sampling == "in-batch":
            # The hardest of the batch, and the positives: also where the mined lists need not hold them.
            positives = "all" if self.mining.positives == "retrieved" else self.mining.positives
            return replace(
                self.mining,
                strategy="top-k",
                positives=positives,
                hard_negatives=self.config.sampling_top,
                index="flat",
            )
        # A sub-gallery is searched as the gallery is in use: the nearest items, whether they are positive or not.
        return replace(
            self.mining,
            strategy="top-k",
            positives="retrieved",
            hard_negatives=self.config.sampling_top,
            index="flat",
            positive_margin=None,
            duplicate_cosine=None,
        )

    def _draw_fold(self, images: np.ndarray, generator: np.random.Generator) -> Iterator[CandidateLists]:
        """The lists of one fold."""
        galleries = [images]
        if self.config.sampling == "sub-gallery":
            # Random galleries of about the configured size.
            count = max(1, round(len(images) / self.config.sampling_images))
            galleries = [np.sort(part) for part in np.array_split(generator.permutation(images), count)]
        for gallery in galleries:
            yield from self._draw_gallery(gallery, generator)

    def _split_into_batches(self, folds: Sequence[np.ndarray], generator: np.random.Generator) -> list[np.ndarray]:
        """Galleries of one batch of lists each, in random order; the remainders of the folds come last."""
        size, with_caption = self.config.batch_size, np.unique(self.store.image_of_caption)
        galleries: list[np.ndarray] = []
        for fold in folds:
            images = generator.permutation(np.intersect1d(fold, with_caption))
            galleries += [np.sort(images[start : start + size]) for start in range(0, len(images), size)]
        order = generator.permutation(len(galleries))
        # Whole batches first, so that each begins where a batch of the training begins.
        return sorted((galleries[number] for number in order), key=lambda images: len(images) < size)

    def _draw_gallery(self, images: np.ndarray, generator: np.random.Generator) -> Iterator[CandidateLists]:
        """The lists of the queries of some images, in the gallery of these images."""
        pool = self._make_pool(images)
        # One list an image: another caption is the query in another epoch.
        if self.direction == "t2i":
            pool = one_per_image(pool, generator)
        yield from self._draw_pool(pool, generator)

    def _make_pool(self, images: np.ndarray) -> QueryPool:
        """The queries and the gallery of some images."""
        return make_pool(self.store, RoleImages("train", "", images), self.direction)

    def _draw_pool(self, pool: QueryPool, generator: np.random.Generator) -> Iterator[CandidateLists]:
        """The lists of all queries of a pool, some queries at a time."""
        config = fit_candidates(self.list_config, pool)
        query_side, gallery_side = store_sides(self.store, self.direction)
        index = make_flat_index(gallery_side, pool.gallery)
        # In chunks, which bound the memory of the draws; the generator goes on from one chunk to the next.
        for start in range(0, len(pool.queries), CHUNK):
            part = pool[start : start + CHUNK]
            queries = query_side[part.queries].astype(np.float32)
            chunk = QueryChunk(
                part,
                queries,
                gallery_side,
                generator,
                config,
                index=lambda: index,
                nearest=partial(search_nearest, index, queries, count_searched(config, part)),
            )
            yield assemble_lists(part, STRATEGIES[config.strategy](chunk), generator)


def count_others(pool: QueryPool) -> int:
    """Items of other images for the query with the most items of its own."""
    return len(pool.gallery) - int((pool.last - pool.first).max(initial=0))


def fit_candidates(config: MineConfig, pool: QueryPool) -> MineConfig:
    """How lists are drawn from a pool: a small one has fewer random candidates, and perhaps shorter lists."""
    others = count_others(pool)
    if config.strategy != "random-hard" or others >= config.random_candidates:
        return config
    return replace(config, random_candidates=others, hard_negatives=min(config.hard_negatives, others))


def search_nearest(index: "faiss.IndexFlat", queries: np.ndarray, width: int) -> RankedItems:
    """The nearest items of each query; between equal similarities the gallery's order decides."""
    # FAISS leaves the order of equal similarities open.
    similarity, items = index.search(queries, min(width, index.ntotal))  # type: ignore[call-arg]
    order = np.lexsort((items, -similarity), axis=1)
    return RankedItems(np.take_along_axis(items, order, 1), np.take_along_axis(similarity, order, 1))
