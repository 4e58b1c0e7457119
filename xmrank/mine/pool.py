"""The queries of one direction and role, the gallery they search, and which items are right."""

from dataclasses import dataclass

import numpy as np

from xmrank.config import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.roles import RoleImages


@dataclass(frozen=True)
class QueryPool:
    """All queries of a direction and role, and the gallery they search.

    Attributes:
        queries: rows of the query side, int64 [queries].
        gallery: rows of the other side, int64 [items]; items of one image are next to each other.
        first, last: each query's own items are ``gallery[first:last]``, int64 [queries]; the rest belongs to others.
    """

    direction: Direction
    queries: np.ndarray
    gallery: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def __getitem__(self, part: slice | np.ndarray) -> "QueryPool":
        """The pool with some of the queries."""
        return QueryPool(self.direction, self.queries[part], self.gallery, self.first[part], self.last[part])


def make_pool(store: EmbeddingStore, part: RoleImages, direction: Direction) -> QueryPool:
    """The pool of every query that has a positive.

    i2t: every image with captions is a query, the gallery is the captions of the role's images; t2i: every caption is
    a query, the gallery is the images.
    """
    captions, image_index = captions_of(store, part.images)
    if direction == "t2i":
        return QueryPool(direction, captions, part.images, image_index, image_index + 1)
    # The captions are sorted by image, so that an image's own are one range.
    first = np.searchsorted(image_index, np.arange(len(part.images)), side="left")
    last = np.searchsorted(image_index, np.arange(len(part.images)), side="right")
    return QueryPool(direction, part.images, captions, first, last)[last > first]


def captions_of(store: EmbeddingStore, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The captions of some images, image by image.

    Args:
        images: image rows, ascending.

    Returns:
        caption rows, int64 [captions], and the index in ``images`` of each one's image, int64 [captions].
    """
    # −1 marks images that are not among the chosen ones.
    index_of_row = np.full(len(store.image), -1, np.int64)
    index_of_row[images] = np.arange(len(images))
    image_index = index_of_row[store.image_of_caption]
    rows = np.flatnonzero(image_index >= 0)
    rows = rows[np.argsort(image_index[rows], kind="stable")]
    return rows, image_index[rows]


def one_per_image(pool: QueryPool, generator: np.random.Generator) -> QueryPool:
    """The t2i pool with one caption of each image as query, drawn at random."""
    # ``first`` is the image's index in the gallery, so it changes where the next image's captions begin.
    starts = np.flatnonzero(np.diff(pool.first, prepend=-1))
    counts = np.diff(np.append(starts, len(pool.queries)))
    return pool[starts + (generator.random(len(starts)) * counts).astype(np.int64)]
