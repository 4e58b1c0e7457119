"""Labels of the candidates: how relevant they are. A graded relevance is one function and one line of the registry."""

from collections.abc import Callable

import numpy as np

from xmrank.config import Direction, MineConfig
from xmrank.embed.importing import load_matching_rows
from xmrank.embed.store import EmbeddingStore, to_unit_length
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import resolve

BLOCK = 64
"""Lists whose items' embeddings are in memory at once."""


def binary_relevance(
    lists: CandidateLists, _store: EmbeddingStore, _direction: Direction, _texts: np.ndarray
) -> np.ndarray:
    """1 for the query's own items, 0 for those of other images."""
    return lists.labels


def shared_labels(lists: CandidateLists, store: EmbeddingStore, direction: Direction, _texts: np.ndarray) -> np.ndarray:
    """1 for the query's own items; for others the Jaccard index of the two images' class labels.

    Raises:
        DataError: the images have no labels.
    """
    # Labels belong to images: a caption has those of its image.
    has_class = class_matrix(store)
    query_image = np.repeat(lists.queries, lists.lengths)
    item_image: np.ndarray = lists.candidates
    if direction == "i2t":
        item_image = store.image_of_caption[item_image]
    else:
        query_image = store.image_of_caption[query_image]
    both = (has_class[query_image] & has_class[item_image]).sum(1)
    either = (has_class[query_image] | has_class[item_image]).sum(1)
    # Where neither image has labels, 0 / 1: nothing shared.
    return np.where(lists.labels > 0, lists.labels, both / np.maximum(either, 1)).astype(np.float32)


def class_matrix(store: EmbeddingStore) -> np.ndarray:
    """Which image has which class label, bool [images, classes].

    Raises:
        DataError: the images have no labels.
    """
    labels_of_image = store.images["labels"].to_pylist() if "labels" in store.images.column_names else []
    classes = sorted({label for labels in labels_of_image for label in labels or ()})
    if not classes:
        raise DataError(f"{store.label}: its images have no labels (--relevance labels)")
    column = {label: index for index, label in enumerate(classes)}
    matrix = np.zeros((len(labels_of_image), len(classes)), bool)
    for row, labels in enumerate(labels_of_image):
        matrix[row, [column[label] for label in labels or ()]] = True
    return matrix


def caption_similarity(
    lists: CandidateLists, store: EmbeddingStore, direction: Direction, texts: np.ndarray
) -> np.ndarray:
    """1 for the query's own items; for others (1 + highest cosine of the caption with the image's own captions) / 2.

    Source: Li et al., "Integrating listwise ranking into pairwise-based image-text retrieval", 2023, RSC.
    """
    own = captions_of_images(store)
    scores = np.empty(len(lists.candidates), np.float32)
    for start in range(0, len(lists), BLOCK):
        stop = min(start + BLOCK, len(lists))
        part = slice(lists.offsets[start], lists.offsets[stop])
        queries = np.repeat(lists.queries[start:stop], lists.lengths[start:stop])
        # Each pair has an image and a caption; the direction says which of them is the query.
        image, caption = queries, lists.candidates[part]
        if direction == "t2i":
            image, caption = caption, image
        of_image = to_unit_length(texts[own[image].reshape(-1)], np.dtype(np.float32))
        of_caption = to_unit_length(texts[caption], np.dtype(np.float32))
        cosine = np.einsum("nmd,nd->nm", of_image.reshape(len(image), own.shape[1], -1), of_caption)
        scores[part] = (1 + np.where(own[image] >= 0, cosine, -1).max(1)) / 2
    return np.where(lists.labels > 0, lists.labels, np.clip(scores, 0, 1)).astype(np.float32)


def captions_of_images(store: EmbeddingStore) -> np.ndarray:
    """Each image's caption rows, int64 [images, most of any]; −1 behind the last."""
    image_row = store.image_of_caption
    order = np.argsort(image_row, kind="stable")
    ordered = image_row[order]
    # How many captions of the same image come before.
    number = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    rows = np.full((len(store.image), int(number.max(initial=0)) + 1), -1, np.int64)
    rows[ordered, number] = order
    return rows


def read_relevance_texts(config: MineConfig, store: EmbeddingStore) -> np.ndarray:
    """The text embeddings that ``--relevance captions`` compares, [captions, d]: a file's, or the store's own.

    Raises:
        DataError: no such file, not an array, or another number of rows than the store has captions.
    """
    if config.relevance_texts is None:
        return store.text
    return load_matching_rows(resolve(config.relevance_texts), "--relevance-texts", len(store.text))


RELEVANCE: dict[str, Callable[[CandidateLists, EmbeddingStore, Direction, np.ndarray], np.ndarray]] = {
    "binary": binary_relevance,
    "labels": shared_labels,
    "captions": caption_similarity,
}
"""Labels of the items of lists, float32 [items], by name."""
TRAINING_ONLY = {"captions"}
"""Grades that leave nothing irrelevant: lists that do not train keep binary labels."""


def grade_labels(
    lists: CandidateLists, store: EmbeddingStore, direction: Direction, role: str, config: MineConfig
) -> np.ndarray:
    """The labels that ``--relevance`` names, float32 [items]."""
    # Validation and test measure retrieval, where a candidate is right or wrong.
    name = "binary" if config.relevance in TRAINING_ONLY and role != "train" else config.relevance
    return RELEVANCE[name](lists, store, direction, read_relevance_texts(config, store))
