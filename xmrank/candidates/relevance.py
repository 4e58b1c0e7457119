"""Labels of the candidates: how relevant they are. A graded relevance is one function and one line of the registry."""

from collections.abc import Callable

import numpy as np

from xmrank.candidates.lists import Lists
from xmrank.config import Direction
from xmrank.embedding import EmbeddingStore
from xmrank.errors import DataError


def binary(lists: Lists, _store: EmbeddingStore, _direction: Direction) -> np.ndarray:
    """1 for the query's own items, 0 for those of other images."""
    return lists.labels


def shared_labels(lists: Lists, store: EmbeddingStore, direction: Direction) -> np.ndarray:
    """1 for the query's own items; for others the share of the class labels that both images have of those of either.

    Raises:
        DataError: the images have no labels.
    """
    names = store.images["labels"].to_pylist() if "labels" in store.images.column_names else []
    classes = sorted({label for labels in names for label in labels or ()})
    if not classes:
        raise DataError(f"{store.directory}: its images have no labels (--relevance labels)")
    number = {label: place for place, label in enumerate(classes)}
    table = np.zeros((len(names), len(classes)), bool)
    for row, labels in enumerate(names):
        table[row, [number[label] for label in labels or ()]] = True
    asking = np.repeat(lists.queries, lists.lengths)
    found: np.ndarray = lists.candidates
    if direction == "i2t":
        found = store.image_of_caption[found]
    else:
        asking = store.image_of_caption[asking]
    both, either = (table[asking] & table[found]).sum(1), (table[asking] | table[found]).sum(1)
    return np.where(lists.labels > 0, lists.labels, both / np.maximum(either, 1)).astype(np.float32)


RELEVANCE: dict[str, Callable[[Lists, EmbeddingStore, Direction], np.ndarray]] = {
    "binary": binary,
    "labels": shared_labels,
}
"""Labels of the items of lists, float32 [items], by name."""
