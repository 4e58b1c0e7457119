"""Labels of the candidates: how relevant they are. A graded relevance is one function and one line of the registry."""

from collections.abc import Callable

import numpy as np

from xmrank.config import Direction, MineConfig
from xmrank.embed.importing import rows_beside
from xmrank.embed.store import EmbeddingStore, normalised
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import resolve

BLOCK = 64
"""Lists whose items' embeddings are in memory at once."""


def binary(lists: CandidateLists, _store: EmbeddingStore, _direction: Direction, _texts: np.ndarray) -> np.ndarray:
    """1 for the query's own items, 0 for those of other images."""
    return lists.labels


def shared_labels(lists: CandidateLists, store: EmbeddingStore, direction: Direction, _texts: np.ndarray) -> np.ndarray:
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


def like_captions(lists: CandidateLists, store: EmbeddingStore, direction: Direction, texts: np.ndarray) -> np.ndarray:
    """1 for the query's own items; for others (1 + highest cosine of the caption with the image's own captions) / 2.

    Source: Li et al., "Integrating listwise ranking into pairwise-based image-text retrieval", 2023, RSC.
    """
    own = own_captions(store)
    scores = np.empty(len(lists.candidates), np.float32)
    for start in range(0, len(lists), BLOCK):
        stop = min(start + BLOCK, len(lists))
        places = slice(lists.offsets[start], lists.offsets[stop])
        asking = np.repeat(lists.queries[start:stop], lists.lengths[start:stop])
        image, caption = (asking, lists.candidates[places])[:: 1 if direction == "i2t" else -1]
        of_image, of_caption = (
            normalised(texts[rows], np.dtype(np.float32)) for rows in (own[image].reshape(-1), caption)
        )
        cosine = np.einsum("nmd,nd->nm", of_image.reshape(len(image), own.shape[1], -1), of_caption)
        scores[places] = (1 + np.where(own[image] >= 0, cosine, -1).max(1)) / 2
    return np.where(lists.labels > 0, lists.labels, np.clip(scores, 0, 1)).astype(np.float32)


def own_captions(store: EmbeddingStore) -> np.ndarray:
    """Each image's caption rows, int64 [images, most]; −1 behind the last."""
    owner = store.image_of_caption
    order = np.argsort(owner, kind="stable")
    turn = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order])
    table = np.full((len(store.image), int(turn.max(initial=0)) + 1), -1, np.int64)
    table[owner[order], turn] = order
    return table


def relevance_texts(config: MineConfig, store: EmbeddingStore) -> np.ndarray:
    """The text embeddings that ``--relevance captions`` compares, [captions, d]; the store's, where none are named.

    Raises:
        DataError: no such file, not an array, or of other rows than the store's captions.
    """
    if config.relevance_texts is None:
        return store.text
    return rows_beside(resolve(config.relevance_texts), "--relevance-texts", len(store.text))


RELEVANCE: dict[str, Callable[[CandidateLists, EmbeddingStore, Direction, np.ndarray], np.ndarray]] = {
    "binary": binary,
    "labels": shared_labels,
    "captions": like_captions,
}
"""Labels of the items of lists, float32 [items], by name."""
TRAINING_ONLY = {"captions"}
"""Grades that leave nothing irrelevant: other lists than those that train keep binary labels."""


def graded(
    lists: CandidateLists, store: EmbeddingStore, direction: Direction, role: str, config: MineConfig
) -> np.ndarray:
    """The labels that the configuration asks for, float32 [items]."""
    name = "binary" if config.relevance in TRAINING_ONLY and role != "train" else config.relevance
    return RELEVANCE[name](lists, store, direction, relevance_texts(config, store))
