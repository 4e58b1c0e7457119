"""From ranked negatives and positives to candidate lists: which items enter, in what order, with what labels."""

from dataclasses import dataclass

import numpy as np

from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.pool import QueryPool

BLOCK = 64
"""Queries whose candidates' embeddings are in memory at once."""


@dataclass(frozen=True)
class RankedItems:
    """Items for every query of a pool, the most similar first.

    Attributes:
        items: indices in the pool's gallery, int64 [queries, width]; -1: no item.
        similarity: float32 [queries, width].
    """

    items: np.ndarray
    similarity: np.ndarray

    def reorder(self, order: np.ndarray) -> "RankedItems":
        """The columns of each row in another order, or some of them; int64 [queries, width]."""
        return RankedItems(np.take_along_axis(self.items, order, 1), np.take_along_axis(self.similarity, order, 1))

    def remove_items(self, unwanted: np.ndarray) -> "RankedItems":
        """The same without some items; bool [queries, width]."""
        return RankedItems(np.where(unwanted, -1, self.items), self.similarity)

    def take_first(self, count: int) -> "RankedItems":
        """The first ``count`` items of every query, not counting the removed ones."""
        # Stable: the items keep their order, the removed ones go to the end.
        return self.reorder(np.argsort(self.items < 0, axis=1, kind="stable")[:, :count])

    def sort_by_similarity(self) -> "RankedItems":
        """The most similar first; items of equal similarity keep their order."""
        return self.reorder(np.argsort(np.where(self.items < 0, np.inf, -self.similarity), axis=1, kind="stable"))

    def append_items(self, other: "RankedItems") -> "RankedItems":
        """These items, then those of the other."""
        items = np.concatenate([self.items, other.items], 1)
        return RankedItems(items, np.concatenate([self.similarity, other.similarity], 1))


def is_own_item(pool: QueryPool, items: np.ndarray) -> np.ndarray:
    """Which items are the query's own; bool [queries, width]."""
    return (items >= pool.first[:, None]) & (items < pool.last[:, None])


def all_own_items(pool: QueryPool) -> np.ndarray:
    """Every query's own items, int64 [queries, most of any]; -1 behind the last."""
    items = pool.first[:, None] + np.arange(int((pool.last - pool.first).max(initial=0)))
    return np.where(items < pool.last[:, None], items, -1)


def draw_own_items(pool: QueryPool, generator: np.random.Generator) -> np.ndarray:
    """One of every query's own items, drawn at random, int64 [queries, 1]."""
    own = pool.last - pool.first
    # A uniform number below the count of own items, by one draw for each query.
    return (pool.first + (generator.random(len(own)) * own).astype(np.int64))[:, None]


def assemble_lists(pool: QueryPool, ranked: RankedItems, generator: np.random.Generator) -> CandidateLists:
    """Lists of all items that were not removed, each in random order; the query's own items have label 1."""
    width = ranked.items.shape[1]
    ranked = ranked.take_first(width)
    lengths = (ranked.items >= 0).sum(1)
    # Stored shuffled, so that no order of ties and no model can read the label off the index.
    ranked = ranked.reorder(shuffle_rows(generator, lengths, width))
    labels = is_own_item(pool, ranked.items).astype(np.float32)
    return CandidateLists.from_matrices(pool.queries, pool.gallery[ranked.items], labels, ranked.similarity, lengths)


def shuffle_rows(generator: np.random.Generator, lengths: np.ndarray, width: int) -> np.ndarray:
    """A random order of each row's first ``lengths`` columns, then the others; int64 [rows, width]."""
    keys = generator.random((len(lengths), width))
    # Keys are below 1, so that columns without an item sort behind those with one.
    keys[np.arange(width) >= lengths[:, None]] = 2.0
    return np.argsort(keys, axis=1, kind="stable")


def above_margin(negatives: RankedItems, positives: RankedItems, margin: float) -> np.ndarray:
    """Negatives less than ``margin`` below the most similar positive: likely not negative; bool [queries, width].

    Source: Moreira et al., "NV-Retriever: improving text embedding models with effective hard-negative mining", 2024,
    TopK-MarginPos.
    """
    # A query without positives has no margin: nothing is left out.
    best = np.where(positives.items >= 0, positives.similarity, -np.inf).max(1, initial=-np.inf)
    return negatives.similarity > (best - margin)[:, None]


def near_duplicates(pool: QueryPool, negatives: RankedItems, side: np.ndarray, threshold: float) -> np.ndarray:
    """Negatives whose cosine with one of the query's own items is at least ``threshold``; bool [queries, width].

    Args:
        pool: the queries.
        negatives: the items to check.
        side: embeddings of the gallery's side, [rows, d].
        threshold: 1: only equal embeddings, up to rounding.
    """
    result = np.zeros(negatives.items.shape, bool)
    own = all_own_items(pool)
    for start in range(0, len(own), BLOCK):
        part = slice(start, start + BLOCK)
        theirs = side[pool.gallery[negatives.items[part]]].astype(np.float32)
        ours = side[pool.gallery[own[part]]].astype(np.float32)
        cosine = np.einsum("qnd,qmd->qnm", theirs, ours, optimize=True)
        # The width of ``own`` is that of the query with the most items: the others' padding must not count.
        best = np.where(own[part, None] >= 0, cosine, -np.inf).max(2, initial=-np.inf)
        result[part] = best >= threshold
    return result


def with_cosine(pool: QueryPool, items: np.ndarray, queries: np.ndarray, side: np.ndarray) -> RankedItems:
    """Items with their similarities, all computed the same way, so that equal embeddings have equal similarities.

    Args:
        pool: the queries.
        items: indices in the gallery, int64 [queries, width]; -1: none.
        queries: embeddings, float32 [queries, d].
        side: embeddings of the gallery's side, [rows, d].
    """
    # Items of -1 get a similarity too; they are removed when the lists are assembled.
    similarity = np.zeros(items.shape, np.float32)
    for start in range(0, len(items), BLOCK):
        part = slice(start, start + BLOCK)
        gallery = side[pool.gallery[items[part]]].astype(np.float32)
        similarity[part] = np.einsum("qd,qnd->qn", queries[part], gallery)
    return RankedItems(items, similarity)
