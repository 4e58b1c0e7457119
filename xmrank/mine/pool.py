"""One direction and part as a mining task: who asks, what may be found, what is right."""

from dataclasses import dataclass

import numpy as np

from xmrank.config import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.roles import RoleImages


@dataclass(frozen=True)
class QueryPool:
    """All queries of a direction and part, and the gallery they search.

    Attributes:
        queries: rows of the query side, int64 [queries].
        gallery: rows of the other side, int64 [items]; items of one image stand together.
        first, last: each query's own items are ``gallery[first:last]``, int64 [queries]; the rest belongs to others.
    """

    direction: Direction
    queries: np.ndarray
    gallery: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def __getitem__(self, part: slice) -> "QueryPool":
        """The pool with some of the queries."""
        return QueryPool(self.direction, self.queries[part], self.gallery, self.first[part], self.last[part])


def make_pool(store: EmbeddingStore, part: RoleImages, direction: Direction) -> QueryPool:
    """The pool of every query that has something to find.

    i2t: every image with captions asks for captions of the part; t2i: every caption asks for images of the part.
    """
    captions, owner = captions_of(store, part.images)
    if direction == "t2i":
        return QueryPool(direction, captions, part.images, owner, owner + 1)
    first = np.searchsorted(owner, np.arange(len(part.images)), side="left")
    last = np.searchsorted(owner, np.arange(len(part.images)), side="right")
    asks = last > first
    return QueryPool(direction, part.images[asks], captions, first[asks], last[asks])


def captions_of(store: EmbeddingStore, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The captions of some images, image by image.

    Args:
        images: image rows, ascending.

    Returns:
        caption rows, int64 [captions], and the place in ``images`` of each one's image, int64 [captions].
    """
    place = np.full(len(store.image), -1, np.int64)
    place[images] = np.arange(len(images))
    owner = place[store.image_of_caption]
    rows = np.flatnonzero(owner >= 0)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    return rows, owner[rows]


def one_per_image(pool: QueryPool, generator: np.random.Generator) -> QueryPool:
    """The t2i pool with one caption an image left to ask, drawn at random."""
    starts = np.flatnonzero(np.diff(pool.first, prepend=-1))
    counts = np.diff(np.append(starts, len(pool.queries)))
    chosen = starts + (generator.random(len(starts)) * counts).astype(np.int64)
    return QueryPool(pool.direction, pool.queries[chosen], pool.gallery, pool.first[chosen], pool.last[chosen])
