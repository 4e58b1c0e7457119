"""What is ranked and measured: the reported lists, galleries, the first stage's top N of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xmrank.config import Direction
from xmrank.config.evaluate import folds_of
from xmrank.embed.store import EmbeddingStore
from xmrank.metrics import KS, gallery_metrics, list_metrics, top_n
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.pool import QueryPool, make_pool
from xmrank.mine.roles import RoleImages
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """Lists of one direction that every method ranks.

    Attributes:
        name: "lists", "top-N" (the first stage's top N of the full gallery), or "top-N-of-5x1000" (of that gallery).
        positives: all relevant items a query has in what the protocol searches, int64 [lists].
    """

    name: str
    direction: Direction
    lists: CandidateLists
    positives: np.ndarray

    def metrics(self, scores: np.ndarray, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
        """Per-query metrics, float64 [lists], of scores that are flat as in the lists, at the cut-offs ks."""
        matrix, labels, mask = self.matrices(scores)
        return list_metrics(matrix, labels, mask=mask, total_positives=self.positives, ks=ks)

    def matrices(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, labels and mask, [lists, longest list]."""
        _, labels, _, mask = self.lists.padded(np.arange(len(self.lists)))
        matrix = np.zeros(mask.shape, np.float32)
        matrix[mask] = scores
        return matrix, labels, mask


def reported_lists(lists: CandidateLists, direction: Direction) -> Protocol:
    """The protocol of mined lists: a query's relevant items are those in its list."""
    starts = lists.offsets[:-1]
    positives = np.add.reduceat((lists.labels > 0).astype(np.int64), starts) if len(lists) else starts
    return Protocol("lists", direction, lists, positives)


@dataclass(frozen=True)
class GalleryProtocol:
    """What is searched whole: one gallery, or several of one size that are averaged.

    Attributes:
        name: "gallery" (all reported images), "gallery-1000", "gallery-5x1000".
        pools: each gallery with those who search it.
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

    def top(self, n: int) -> str:
        """The name of the protocol that re-ranks the first n of it."""
        return f"top-{n}" + ("-of" + self.name.removeprefix("gallery") if self.name != "gallery" else "")

    def relevant(self) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of a query (its number) and an item relevant to it (its row), int64 [pairs] each."""
        counts = self.positives
        rows = [pool.gallery[own_items(pool)[1]] for pool in self.pools]
        return np.repeat(np.arange(len(counts)), counts), np.concatenate(rows)


def gallery_pool(store: EmbeddingStore, images: np.ndarray, direction: Direction) -> QueryPool:
    """Every query of the reported images, and the gallery of all of them."""
    return make_pool(store, RoleImages("test", "", images), direction)


def sides(store: EmbeddingStore, pool: QueryPool) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the pool's queries and of its gallery."""
    asking, found = (store.image, store.text) if pool.direction == "i2t" else (store.text, store.image)
    return asking[pool.queries], found[pool.gallery]


def own_items(pool: QueryPool) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, places): the gallery places relevant to query q are ``places[offsets[q]:offsets[q + 1]]``."""
    counts = pool.last - pool.first
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return offsets, np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts) + np.repeat(pool.first, counts)


def whole_gallery(store: EmbeddingStore, gallery: GalleryProtocol) -> dict[str, np.ndarray]:
    """Per-query metrics, float64 [queries], of the first stage's ranking of the gallery."""
    parts = [gallery_metrics(*sides(store, pool), own_items(pool)) for pool in gallery.pools]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def tops_of(store: EmbeddingStore, gallery: GalleryProtocol, depths: Sequence[int]) -> list[Protocol]:
    """The protocols of the first stage's top N of a gallery, in ascending order of N.

    Items stand in ascending order of rows, so that no rank leaks. An N beyond the gallery is the gallery.
    """
    least = min(len(pool.gallery) for pool in gallery.pools)
    kept = sorted({min(n, least) for n in depths})
    found = [top_n(*sides(store, pool), kept[-1]) for pool in gallery.pools]
    protocols = []
    for n in kept:
        parts = [
            first_places(pool, rows[:, :n], cosine[:, :n])
            for pool, (rows, cosine) in zip(gallery.pools, found, strict=True)
        ]
        protocols.append(
            Protocol(gallery.top(n), gallery.pools[0].direction, CandidateLists.join(parts), gallery.positives)
        )
    return protocols


def first_places(pool: QueryPool, found: np.ndarray, similarity: np.ndarray) -> CandidateLists:
    """The lists of what was found: places in the gallery, best first, and their similarities, [queries, n]."""
    order = np.argsort(found, axis=1)
    found, similarity = np.take_along_axis(found, order, 1), np.take_along_axis(similarity, order, 1)
    labels = (found >= pool.first[:, None]) & (found < pool.last[:, None])
    return CandidateLists.of(pool.queries, pool.gallery[found], labels, similarity, np.full(len(found), found.shape[1]))


def galleries_of(
    store: EmbeddingStore, images: np.ndarray, direction: Direction, more: Sequence[str] = ()
) -> list[GalleryProtocol]:
    """The gallery of all reported images, then those that ``--galleries`` names.

    Args:
        images: rows of the reported images, in the order of the data set: folds are taken from its beginning.
    """
    galleries = [GalleryProtocol("gallery", (gallery_pool(store, images, direction),))]
    for text in more:
        folds, size = folds_of(text)
        parts = images[: folds * size].reshape(folds, size)
        galleries.append(
            GalleryProtocol(f"gallery-{text}", tuple(gallery_pool(store, part, direction) for part in parts))
        )
    return galleries


def check_galleries(galleries: Sequence[str], images: int, split: str) -> None:
    """Refuse a gallery of more images than are reported.

    Raises:
        ConfigError: names the gallery, and what the split has.
    """
    for text in galleries:
        folds, size = folds_of(text)
        if folds * size > images:
            raise ConfigError(
                f"--galleries {text}: needs {folds * size:,} images, the reported split {split} has {images:,}"
            )
