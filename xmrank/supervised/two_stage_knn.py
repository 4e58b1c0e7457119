"""Ranking in a common space: by distance, and by the two-stage nearest-neighbour search (2Sknn) of LCM.

No function here takes the labels of queries: a ranking cannot depend on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np

CHUNK = 64
"""Queries that are ranked at a time: their distances to all items fit into a core's cache."""
KEY_BITS = 64
DISTANCE_BITS = 32


@dataclass(frozen=True)
class TwoStageRanking:
    """What queries retrieve, best first.

    Attributes:
        order: rows of the retrieval set, int64 [queries, items].
        tied: True where nothing tells an item from the one before it, bool [queries, items].
    """

    order: np.ndarray
    tied: np.ndarray


def by_distance(queries: np.ndarray, items: np.ndarray) -> TwoStageRanking:
    """Rank all items by their Euclidean distance.

    Args:
        queries: float32 [queries, d].
        items: float32 [items, d].
    """
    return _rank_items(queries, items, np.zeros((len(queries), 1), np.uint16), np.zeros((1, len(items)), np.int64))


def two_stage(
    queries: np.ndarray,
    train: np.ndarray,
    train_labels: np.ndarray,
    items: np.ndarray,
    item_labels: np.ndarray,
    *,
    neighbours: int = 50,
) -> TwoStageRanking:
    """Rank all items by 2Sknn: labels in the order that a query's neighbours have them, then the items of each label.

    An item of several labels stands with the first of them; items without a label come last; within a label, items
    stand by their distance.

    Args:
        queries: of one modality, float32 [queries, d].
        train: training items of the same modality, float32 [training items, d].
        train_labels: bool [training items, classes].
        items: the retrieval set, of the other modality, float32 [items, d']. Where d' differs from d there is no
            common space, and the items of a label stay tied.
        item_labels: of the retrieval set, true or predicted, bool [items, classes].
        neighbours: K.

    Source: Gohil, Bithel and Bedathur, "LCM", CODS-COMAD 2023, Algorithm 1.
    """
    ranks = label_ranks(queries, train, train_labels, neighbours=neighbours)
    # One more rank behind all labels, for items without any.
    none = np.full((len(ranks), 1), ranks.shape[1], np.uint16)
    return _rank_items(queries, items, np.concatenate([ranks, none], axis=1), _label_lists(item_labels))


def label_ranks(
    queries: np.ndarray, train: np.ndarray, train_labels: np.ndarray, *, neighbours: int = 50
) -> np.ndarray:
    """Stage 1: the rank of every label in a query's order of labels.

    Labels stand by how many of the K nearest training items carry them; equal counts by the smaller mean distance of
    those items, then by label number; labels that none carries follow by number.

    Args:
        queries: float32 [queries, d].
        train: of the same modality, float32 [training items, d].
        train_labels: bool [training items, classes].
        neighbours: K; all training items where there are fewer.

    Returns:
        Ranks from 0, uint16 [queries, classes].
    """
    return _invert_order(*neighbour_labels(queries, train, train_labels, neighbours=neighbours))


def neighbour_labels(
    queries: np.ndarray, train: np.ndarray, train_labels: np.ndarray, *, neighbours: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """How many of the nearest training items carry each label, and at which mean distance; float64 [queries, classes].

    The mean distance of a label that none carries is infinite.
    """
    index = faiss.IndexFlatL2(train.shape[1])
    index.add(np.ascontiguousarray(train, np.float32))
    k = min(neighbours, len(train))
    squared, nearest = index.search(np.ascontiguousarray(queries, np.float32), k)  # type: ignore[call-arg]
    # Two weights a neighbour: 1 to count labels, and its distance to average it for each label.
    weights = np.stack([np.ones_like(squared), np.sqrt(np.maximum(squared, 0))], axis=1).astype(np.float64)
    labels = train_labels.astype(np.float64)
    sums = np.empty((len(queries), 2, labels.shape[1]))
    for rows in _split_rows(len(queries)):
        sums[rows] = weights[rows] @ labels[nearest[rows]]
    counts = sums[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        return counts, np.where(counts > 0, sums[:, 1] / counts, np.inf)


def predict_labels(
    items: np.ndarray, train: np.ndarray, train_labels: np.ndarray, *, neighbours: int = 50
) -> np.ndarray:
    """Labels of items by their nearest training items of the same modality, for a stage 2 that may not see true ones.

    The most frequent label (ties as in stage 1); where training items have several labels, also every other label that
    at least half of the neighbours carry.

    Returns:
        bool [items, classes].
    """
    counts, means = neighbour_labels(items, train, train_labels, neighbours=neighbours)
    # The label of rank 0 is the most frequent one.
    best = _invert_order(counts, means) == 0
    if (train_labels.sum(axis=1) > 1).any():
        best |= counts >= min(neighbours, len(train)) / 2
    return best & (counts > 0)  # neighbours without any label predict none


def _invert_order(counts: np.ndarray, means: np.ndarray) -> np.ndarray:
    order = np.lexsort((means, -counts), axis=1)  # stable: what is equal in both stays by label number
    ranks = np.empty(order.shape, np.uint16)
    np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.uint16)[None], axis=1)
    return ranks


def _label_lists(labels: np.ndarray) -> np.ndarray:
    """Every item's labels as numbers, [most labels, items]; padded with the number of classes: none."""
    depth = max(1, int(labels.sum(axis=1).max(initial=0)))
    order = np.argsort(~labels, axis=1, kind="stable")[:, :depth]
    return np.where(np.take_along_axis(labels, order, 1), order, labels.shape[1]).T


def _rank_items(queries: np.ndarray, items: np.ndarray, ranks: np.ndarray, label_lists: np.ndarray) -> TwoStageRanking:
    """Items by the lowest rank that any of their labels has, then by distance.

    One sort of integers that hold rank, distance and the item's number: numpy sorts those several times faster than it
    sorts indices by two keys.

    Args:
        queries, items: as ``two_stage`` has them.
        ranks: of each label, and last of having none, uint16 [queries, labels + 1].
        label_lists: columns of ``ranks``, [most labels, items].
    """
    count = len(items)
    item_bits = max(1, (count - 1).bit_length())
    if item_bits + ranks.shape[1].bit_length() > KEY_BITS - DISTANCE_BITS:
        raise ValueError(f"{count} items, {ranks.shape[1]} labels: too many for one key of {KEY_BITS} bits")
    numbers, last = np.arange(count, dtype=np.uint64), np.uint64((1 << item_bits) - 1)
    shift = np.uint64(item_bits + DISTANCE_BITS)
    order = np.empty((len(queries), count), np.int64)
    tied = np.zeros(order.shape, np.bool_)
    for rows in _split_rows(len(queries)):
        # A key, from its highest bits: rank of the best label, distance, number of the item.
        keys = _distance_bits(queries[rows], items)
        keys <<= np.uint64(item_bits)
        keys |= numbers
        keys |= _first_ranks(ranks[rows], label_lists).astype(np.uint64) << shift
        keys.sort(axis=1)
        # The number gives the order, and what is left of the key tells which neighbours in it are tied.
        np.bitwise_and(keys, last, out=order[rows].view(np.uint64))
        keys >>= np.uint64(item_bits)
        np.equal(keys[:, 1:], keys[:, :-1], out=tied[rows, 1:])
    return TwoStageRanking(order, tied)


def _first_ranks(ranks: np.ndarray, label_lists: np.ndarray) -> np.ndarray:
    """The lowest rank of each item's labels, [queries, items]."""
    first = ranks.take(label_lists[0], axis=1)
    for row in label_lists[1:]:
        np.minimum(first, ranks.take(row, axis=1), out=first)
    return first


def _distance_bits(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Squared distances as integers of the same order, uint64 [queries, items]; zeros without a common space."""
    if items.shape[1] != queries.shape[1]:
        return np.zeros((len(queries), len(items)), np.uint64)
    # ‖q − x‖² = ‖q‖² + ‖x‖² − 2 q·x, one matrix product for all pairs.
    squared = queries @ (-2 * items.T)
    squared += np.einsum("nd,nd->n", items, items)
    squared += np.einsum("nd,nd->n", queries, queries)[:, None]
    np.maximum(squared, 0, out=squared)
    squared += np.float32(0)  # makes −0 a 0: the bits of floats that are not negative order as the floats do
    return squared.view(np.uint32).astype(np.uint64)


def _split_rows(count: int) -> Iterator[slice]:
    for start in range(0, count, CHUNK):
        yield slice(start, start + CHUNK)
