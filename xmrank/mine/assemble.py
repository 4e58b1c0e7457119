"""From ranked negatives and positives to candidate lists: which of them enter, in what order, with what labels."""

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
        items: places in the gallery, int64 [queries, width]; -1 behind the last.
        similarity: float32, likewise.
    """

    items: np.ndarray
    similarity: np.ndarray

    def without(self, unwanted: np.ndarray) -> "RankedItems":
        """The same, with items struck out; bool [queries, width]."""
        return RankedItems(np.where(unwanted, -1, self.items), self.similarity)

    def first(self, count: int) -> "RankedItems":
        """The first ``count`` items that are not struck out, closed up."""
        order = np.argsort(self.items < 0, axis=1, kind="stable")[:, :count]
        return RankedItems(np.take_along_axis(self.items, order, 1), np.take_along_axis(self.similarity, order, 1))

    def by_similarity(self) -> "RankedItems":
        """The same, the most similar first; equal ones stay as they stood."""
        order = np.argsort(np.where(self.items < 0, np.inf, -self.similarity), axis=1, kind="stable")
        return RankedItems(np.take_along_axis(self.items, order, 1), np.take_along_axis(self.similarity, order, 1))

    def beside(self, other: "RankedItems") -> "RankedItems":
        """Both side by side."""
        pairs = zip((self.items, self.similarity), (other.items, other.similarity), strict=True)
        return RankedItems(*(np.concatenate(pair, 1) for pair in pairs))


def own_items(pool: QueryPool, items: np.ndarray) -> np.ndarray:
    """Which items are the query's own; bool [queries, width]."""
    return (items >= pool.first[:, None]) & (items < pool.last[:, None])


def all_own(pool: QueryPool) -> np.ndarray:
    """Every query's own items, int64 [queries, most of any]; -1 behind the last."""
    items = pool.first[:, None] + np.arange(int((pool.last - pool.first).max(initial=0)))
    return np.where(items < pool.last[:, None], items, -1)


def pick_own(pool: QueryPool, generator: np.random.Generator) -> np.ndarray:
    """One of every query's own items, drawn at random, int64 [queries, 1]."""
    own = pool.last - pool.first
    return (pool.first + (generator.random(len(own)) * own).astype(np.int64))[:, None]


def assemble(pool: QueryPool, ranked: RankedItems, generator: np.random.Generator) -> CandidateLists:
    """Lists of everything in ``ranked`` that is not struck out, each in random order; the query's own have label 1."""
    ranked = ranked.first(ranked.items.shape[1])
    lengths = (ranked.items >= 0).sum(1)
    order = shuffle(generator, lengths, ranked.items.shape[1])
    items, similarity = (np.take_along_axis(array, order, 1) for array in (ranked.items, ranked.similarity))
    labels = own_items(pool, items).astype(np.float32)
    return CandidateLists.of(pool.queries, pool.gallery[items], labels, similarity, lengths)


def shuffle(generator: np.random.Generator, lengths: np.ndarray, width: int) -> np.ndarray:
    """A random order of each row's first ``lengths`` places, the rest behind them; int64 [rows, width]."""
    keys = generator.random((len(lengths), width))
    keys[np.arange(width) >= lengths[:, None]] = 2.0
    return np.argsort(keys, axis=1, kind="stable")


def above_margin(negatives: RankedItems, positives: RankedItems, margin: float) -> np.ndarray:
    """Negatives less than ``margin`` below the most similar positive: likely not negative; bool [queries, width].

    Source: Moreira et al., "NV-Retriever: improving text embedding models with effective hard-negative mining", 2024,
    TopK-MarginPos.
    """
    best = np.where(positives.items >= 0, positives.similarity, -np.inf).max(1, initial=-np.inf)
    return negatives.similarity > (best - margin)[:, None]


def near_duplicates(pool: QueryPool, negatives: RankedItems, side: np.ndarray, threshold: float) -> np.ndarray:
    """Negatives whose cosine with an item of the query's own is at least ``threshold``; bool [queries, width].

    Args:
        pool: the queries.
        negatives: to be judged.
        side: embeddings of the gallery's side, [rows, d].
        threshold: 1: equal embeddings only, but for rounding.
    """
    result = np.zeros(negatives.items.shape, bool)
    own = all_own(pool)
    for start in range(0, len(own), BLOCK):
        part = slice(start, start + BLOCK)
        theirs, mine = (side[pool.gallery[items[part]]].astype(np.float32) for items in (negatives.items, own))
        cosine = np.einsum("qnd,qmd->qnm", theirs, mine, optimize=True)
        result[part] = np.where(own[part, None] >= 0, cosine, -np.inf).max(2, initial=-np.inf) >= threshold
    return result


def with_cosine(pool: QueryPool, items: np.ndarray, queries: np.ndarray, side: np.ndarray) -> RankedItems:
    """Items with their similarities, all computed alike, so that equal embeddings have equal ones.

    Args:
        pool: the queries.
        items: places in the gallery, int64 [queries, width]; -1: none.
        queries: embeddings, float32 [queries, d].
        side: embeddings of the gallery's side, [rows, d].
    """
    similarity = np.zeros(items.shape, np.float32)
    for start in range(0, len(items), BLOCK):
        part = slice(start, start + BLOCK)
        similarity[part] = np.einsum("qd,qnd->qn", queries[part], side[pool.gallery[items[part]]].astype(np.float32))
    return RankedItems(items, similarity)
