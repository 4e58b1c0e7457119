"""What is ranked and measured: the reported lists, the full gallery, the first stage's top N of it."""

from dataclasses import dataclass

import numpy as np

from xmrank.candidates import Lists
from xmrank.candidates.pool import Pool, make_pool
from xmrank.candidates.splits import Part
from xmrank.config import Direction
from xmrank.embedding import EmbeddingStore
from xmrank.evaluation import gallery_metrics, list_metrics, top_n


@dataclass(frozen=True)
class Protocol:
    """Lists of one direction that every method ranks.

    Attributes:
        name: "lists", or "top-N" (the first stage's top N of the full gallery).
        positives: all relevant items a query has in what the protocol searches, int64 [lists].
    """

    name: str
    direction: Direction
    lists: Lists
    positives: np.ndarray

    def metrics(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Per-query metrics, float64 [lists], of scores that are flat as in the lists."""
        matrix, labels, mask = self.matrices(scores)
        return list_metrics(matrix, labels, mask=mask, total_positives=self.positives)

    def matrices(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, labels and mask, [lists, longest list]."""
        _, labels, _, mask = self.lists.padded(np.arange(len(self.lists)))
        matrix = np.zeros(mask.shape, np.float32)
        matrix[mask] = scores
        return matrix, labels, mask


def reported_lists(lists: Lists, direction: Direction) -> Protocol:
    """The protocol of mined lists: a query's relevant items are those in its list."""
    starts = lists.offsets[:-1]
    positives = np.add.reduceat((lists.labels > 0).astype(np.int64), starts) if len(lists) else starts
    return Protocol("lists", direction, lists, positives)


def gallery_pool(store: EmbeddingStore, images: np.ndarray, direction: Direction) -> Pool:
    """Every query of the reported images, and the gallery of all of them."""
    return make_pool(store, Part("report", "", images), direction)


def sides(store: EmbeddingStore, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the pool's queries and of its gallery."""
    asking, found = (store.image, store.text) if pool.direction == "i2t" else (store.text, store.image)
    return asking[pool.queries], found[pool.gallery]


def whole_gallery(store: EmbeddingStore, pool: Pool) -> dict[str, np.ndarray]:
    """Per-query metrics, float64 [queries], of the first stage's ranking of the full gallery."""
    queries, gallery = sides(store, pool)
    counts = pool.last - pool.first
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rows = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts) + np.repeat(pool.first, counts)
    return gallery_metrics(queries, gallery, (offsets, rows))


def top_of_gallery(store: EmbeddingStore, pool: Pool, n: int) -> Protocol:
    """The protocol of the first stage's top N (at most the gallery), in ascending order of rows: no rank leaks."""
    queries, gallery = sides(store, pool)
    n = min(n, len(gallery))
    found, similarity = top_n(queries, gallery, n)
    order = np.argsort(found, axis=1)
    found, similarity = np.take_along_axis(found, order, 1), np.take_along_axis(similarity, order, 1)
    labels = (found >= pool.first[:, None]) & (found < pool.last[:, None])
    lengths = np.full(len(found), n)
    lists = Lists.of(pool.queries, pool.gallery[found], labels, similarity, lengths)
    return Protocol(f"top-{n}", pool.direction, lists, pool.last - pool.first)
