"""What is ranked and measured: the reported lists, galleries, and the first stage's top N of each gallery."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xmrank.config.common import Direction
from xmrank.config.evaluate import folds_of
from xmrank.embed.store import EmbeddingStore
from xmrank.metrics import KS, gallery_metrics, list_metrics, top_n
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.pool import QueryPool, make_pool
from xmrank.mine.roles import RoleImages
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class ListProtocol:
    """Lists of one direction that every method ranks.

    Attributes:
        name: "lists", "top-N" (the first stage's top N of the full gallery), or "top-N-of-5x1000" (of that gallery).
        positives: all relevant items of a query in the searched collection, inside and outside its list, int64 [lists].
    """

    name: str
    direction: Direction
    lists: CandidateLists
    positives: np.ndarray

    def measure(self, scores: np.ndarray, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
        """Per-query metrics by name, float64 [lists].

        Args:
            scores: float32, flat as the lists.
            ks: cut-offs of hit@k and recall@k.
        """
        matrix, labels, mask = self.pad_scores(scores)
        return list_metrics(matrix, labels, mask=mask, total_positives=self.positives, ks=ks)

    def pad_scores(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, labels and mask, [lists, longest list], of flat scores."""
        _, labels, _, mask = self.lists.pad_lists(np.arange(len(self.lists)))
        # Flat scores are in the order of the mask's true cells: list by list.
        matrix = np.zeros(mask.shape, np.float32)
        matrix[mask] = scores
        return matrix, labels, mask


def make_list_protocol(lists: CandidateLists, direction: Direction) -> ListProtocol:
    """The protocol of mined lists: a query's relevant items are those in its list."""
    starts = lists.offsets[:-1]
    # reduceat refuses an empty array.
    positives = np.add.reduceat((lists.labels > 0).astype(np.int64), starts) if len(lists) else starts
    return ListProtocol("lists", direction, lists, positives)


@dataclass(frozen=True)
class GalleryProtocol:
    """What is searched whole: one gallery, or several of one size that are averaged.

    Attributes:
        name: "gallery" (all reported images), "gallery-1000", "gallery-5x1000".
        pools: each gallery with its queries.
    """

    name: str
    pools: tuple[QueryPool, ...]

    @property
    def positives(self) -> np.ndarray:
        """How many items are relevant to each query, int64 [queries]."""
        return np.concatenate([pool.last - pool.first for pool in self.pools])

    @property
    def queries(self) -> np.ndarray:
        """Query rows of all pools, int64 [queries]."""
        return np.concatenate([pool.queries for pool in self.pools])

    def top_name(self, n: int) -> str:
        """The name of the protocol that re-ranks its first n items."""
        # "gallery-5x1000" gives "-5x1000", the full gallery an empty text.
        size = self.name.removeprefix("gallery")
        return f"top-{n}-of{size}" if size else f"top-{n}"

    def relevant_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of a query's number and the row of an item relevant to it, int64 [pairs] each."""
        counts = self.positives
        # Relevant items are by index in their own pool's gallery; as rows they can be joined.
        rows = [pool.gallery[relevant_indices(pool)[1]] for pool in self.pools]
        return np.repeat(np.arange(len(counts)), counts), np.concatenate(rows)


def make_gallery_pool(store: EmbeddingStore, images: np.ndarray, direction: Direction) -> QueryPool:
    """Every query of the reported images, and the gallery of all of them."""
    return make_pool(store, RoleImages("test", "", images), direction)


def pool_embeddings(store: EmbeddingStore, pool: QueryPool) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the pool's queries and of its gallery, [rows, d] each."""
    query_side, gallery_side = (store.image, store.text) if pool.direction == "i2t" else (store.text, store.image)
    return query_side[pool.queries], gallery_side[pool.gallery]


def relevant_indices(pool: QueryPool) -> tuple[np.ndarray, np.ndarray]:
    """Which items of the gallery are relevant to each query.

    Returns:
        (offsets, indices), int64: those of query q are ``indices[offsets[q]:offsets[q + 1]]``.
    """
    counts = pool.last - pool.first
    offsets = np.concatenate([[0], np.cumsum(counts)])
    # Counting from first, for each query: 0, 1, 2, … minus where the query's run starts, plus its first index.
    return offsets, np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts) + np.repeat(pool.first, counts)


def measure_gallery(store: EmbeddingStore, gallery: GalleryProtocol) -> dict[str, np.ndarray]:
    """Per-query metrics, float64 [queries], of the first stage's ranking of the whole gallery."""
    parts = [gallery_metrics(*pool_embeddings(store, pool), relevant_indices(pool)) for pool in gallery.pools]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def make_tops(store: EmbeddingStore, gallery: GalleryProtocol, depths: Sequence[int]) -> list[ListProtocol]:
    """The protocols of the first stage's top N of a gallery, by ascending N; N is at most the gallery's size."""
    smallest = min(len(pool.gallery) for pool in gallery.pools)
    # Depths beyond the gallery are one and the same: all of it.
    kept = sorted({min(n, smallest) for n in depths})
    # One search to the deepest N serves all of them.
    searched = [top_n(*pool_embeddings(store, pool), kept[-1]) for pool in gallery.pools]
    protocols = []
    for n in kept:
        parts = []
        for pool, (indices, cosine) in zip(gallery.pools, searched, strict=True):
            parts.append(lists_of_top(pool, indices[:, :n], cosine[:, :n]))
        lists = CandidateLists.join(parts)
        protocols.append(ListProtocol(gallery.top_name(n), gallery.pools[0].direction, lists, gallery.positives))
    return protocols


def lists_of_top(pool: QueryPool, indices: np.ndarray, similarity: np.ndarray) -> CandidateLists:
    """The first stage's top of every query as lists.

    Args:
        indices: into the pool's gallery, best first, [queries, n].
        similarity: of these items, [queries, n].
    """
    # Ascending by row, so that the position in the list does not reveal the rank in the first stage.
    order = np.argsort(indices, axis=1)
    indices, similarity = np.take_along_axis(indices, order, 1), np.take_along_axis(similarity, order, 1)
    # A query's own items are neighbours in the gallery.
    labels = (indices >= pool.first[:, None]) & (indices < pool.last[:, None])
    lengths = np.full(len(indices), indices.shape[1])
    return CandidateLists.from_matrices(pool.queries, pool.gallery[indices], labels, similarity, lengths)


def make_galleries(
    store: EmbeddingStore, images: np.ndarray, direction: Direction, more: Sequence[str] = ()
) -> list[GalleryProtocol]:
    """The gallery of all reported images, then those of ``--galleries``.

    Args:
        images: rows of the reported images in the order of the data set; smaller galleries take the first of them.
        more: as in ``EvaluateConfig.galleries``.
    """
    galleries = [GalleryProtocol("gallery", (make_gallery_pool(store, images, direction),))]
    for text in more:
        folds, size = folds_of(text)
        # Fold after fold from the beginning, as COCO's 5-fold protocol does.
        parts = images[: folds * size].reshape(folds, size)
        pools = tuple(make_gallery_pool(store, part, direction) for part in parts)
        galleries.append(GalleryProtocol(f"gallery-{text}", pools))
    return galleries


def check_galleries(galleries: Sequence[str], images: int, split: str) -> None:
    """Refuse a gallery of more images than the reported split has.

    Raises:
        ConfigError: names the gallery, and what the split has.
    """
    for text in galleries:
        folds, size = folds_of(text)
        if folds * size > images:
            raise ConfigError(
                f"--galleries {text}: needs {folds * size:,} images, the reported split {split} has {images:,}"
            )
