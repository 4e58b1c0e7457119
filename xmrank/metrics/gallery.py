"""Ranking a whole gallery: metrics by counting, and the top n, in blocks of queries.

A similarity is the dot product in float64, rounded to float32. In float32 arithmetic the last bits would depend on
the block size and on the position of a row in its block: the rounding hides that, so equal rows tie exactly and results
do not depend on `block`. This costs about twice a float32 product.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from xmrank.metrics.query_means import KS, check_ks
from xmrank.metrics.ties import Floats, Ints, TieGroups, expected_metrics

Embeddings = NDArray[np.floating]
Similarities = NDArray[np.float32]

GALLERY_ROWS = 4096
"""Gallery rows held in float64 at a time: the gallery itself may be a memory map in float16."""


def compute_similarities(queries: Embeddings, gallery: Embeddings) -> Similarities:
    """Every query with every gallery item, as `gallery_metrics` and `top_n` see them.

    Args:
        queries: [queries, d], any floating dtype.
        gallery: [items, d], any floating dtype.

    Returns:
        Dot products, float32 [queries, items]; cosines where the rows have unit length.

    Raises:
        ValueError: the shapes do not fit, or a similarity is not finite.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries {queries.shape}, gallery {gallery.shape}; expected [queries, d] and [items, d]")
    wide = np.asarray(queries, dtype=np.float64)
    # The gallery in parts: a whole one in float64 may not fit into memory.
    scores = np.empty((len(queries), len(gallery)), dtype=np.float32)
    for start in range(0, len(gallery), GALLERY_ROWS):
        rows = slice(start, start + GALLERY_ROWS)
        scores[:, rows] = wide @ np.asarray(gallery[rows], dtype=np.float64).T
    if not np.isfinite(scores).all():
        raise ValueError("embeddings hold NaN or infinite values")
    return scores


def gallery_metrics(
    queries: Embeddings,
    gallery: Embeddings,
    positives: tuple[Ints, Ints],
    ks: Sequence[int] = KS,
    block: int = 256,
) -> dict[str, Floats]:
    """Metrics of each query over the whole gallery, ranked by descending similarity.

    Equal to `list_metrics` of `compute_similarities(queries, gallery)` with label 1 on the positives and 0 elsewhere:
    the same definitions, ties included. Nothing is sorted: a positive's rank follows from the number of items that
    score higher than it and as high as it.

    Args:
        queries: unit embeddings, [queries, d], any floating dtype; may be a memory map.
        gallery: unit embeddings, [items, d], likewise.
        positives: (offsets, rows), integers: the gallery rows relevant to query q are rows[offsets[q] : offsets[q+1]];
            offsets [queries + 1], rows [pairs].
        ks: the cut-offs.
        block: queries at a time; the memory needed is 4·block·items bytes.

    Returns:
        Under each name (hit@1, …, recall@1, …, mrr, ndcg@10 with the default ks) float64 [queries]; NaN in every
        metric where a query has no positive.

    Raises:
        ValueError: the shapes do not fit; an embedding is NaN or infinite; the offsets do not ascend from 0 to the
            number of rows; a row is outside the gallery or twice in one query; ks or block is below 1.
    """
    cutoffs = check_ks(ks)
    offsets, rows = _check_positives(positives, len(queries), len(gallery))
    above, size = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
    for start, scores in _similarity_blocks(queries, gallery, block):
        for row, line in enumerate(scores, start):
            for pair in range(offsets[row], offsets[row + 1]):
                # Items that score higher, and items that score the same, itself included.
                threshold = line[rows[pair]]
                above[pair] = np.count_nonzero(line > threshold)
                size[pair] = np.count_nonzero(line >= threshold) - above[pair]
    # From the counts of each positive to tie groups, and from these to expectations, as for lists.
    totals = np.diff(offsets)
    ideal_gains = (np.arange(max(cutoffs)) < totals[:, None]).astype(np.float64)
    groups = _group_positives(np.repeat(np.arange(len(queries)), totals), above, size)
    return expected_metrics(groups, totals, ideal_gains, cutoffs)


def top_n(queries: Embeddings, gallery: Embeddings, n: int, block: int = 256) -> tuple[Ints, Similarities]:
    """The n most similar gallery items of each query.

    Args:
        queries: unit embeddings, [queries, d], any floating dtype; may be a memory map.
        gallery: unit embeddings, [items, d], likewise.
        n: from 1 to the number of items.
        block: queries at a time; the memory needed is about 40·block·items bytes.

    Returns:
        (rows, similarity): gallery rows, int64 [queries, n], and their similarities, float32 [queries, n]; by
        descending similarity, equal ones by ascending row.

    Raises:
        ValueError: the shapes do not fit; an embedding is NaN or infinite; n or block is out of range.
    """
    if not 1 <= n <= len(gallery):
        raise ValueError(f"n is {n}; expected 1 to {len(gallery)}, the number of gallery items")
    rows = np.empty((len(queries), n), dtype=np.int64)
    similarity = np.empty((len(queries), n), dtype=np.float32)
    for start, scores in _similarity_blocks(queries, gallery, block):
        # All keys differ, so the n smallest are unique; their lower 32 bits are the gallery rows.
        best = np.sort(np.partition(_sort_keys(scores), n - 1, axis=1)[:, :n], axis=1) & 0xFFFFFFFF
        rows[start : start + len(scores)] = best
        similarity[start : start + len(scores)] = np.take_along_axis(scores, best, axis=1)
    return rows, similarity


def _similarity_blocks(queries: Embeddings, gallery: Embeddings, block: int) -> Iterator[tuple[int, Similarities]]:
    """Similarities of a block of queries, [≤ block, items], each with the number of its first query."""
    if block < 1:
        raise ValueError(f"block is {block}; expected at least 1")
    for start in range(0, len(queries), block):
        yield start, compute_similarities(queries[start : start + block], gallery)


def _check_positives(positives: tuple[Ints, Ints], queries: int, items: int) -> tuple[Ints, Ints]:
    offsets, rows = (np.asarray(part) for part in positives)
    if not all(part.ndim == 1 and (part.size == 0 or part.dtype.kind in "iu") for part in (offsets, rows)):
        raise ValueError("positives are expected as two vectors of integers, offsets and rows")
    offsets, rows = offsets.astype(np.int64), rows.astype(np.int64)
    if len(offsets) != queries + 1 or offsets[0] != 0 or offsets[-1] != len(rows) or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets of the positives must ascend from 0 to {len(rows)} in {queries + 1} values")
    if ((rows < 0) | (rows >= items)).any():
        raise ValueError(f"rows of the positives must lie in the gallery, from 0 to {items - 1}")
    # One number for each pair of a query and a row, to see whether a pair comes twice.
    pairs = np.repeat(np.arange(queries), np.diff(offsets)) * items + rows
    if len(np.unique(pairs)) < len(pairs):
        raise ValueError("a gallery row is twice among the positives of one query")
    return offsets, rows


def _group_positives(query: Ints, above: Ints, size: Ints) -> TieGroups:
    """Positives of one query with one score become one group; each of them gains 1.

    Args:
        query, above, size: of each positive: its query, the items that score higher, the items that score the same.
    """
    # Positives of a query with equally many items above them have the same score.
    order = np.lexsort((above, query))
    query, above, size = query[order], above[order], size[order]
    first = np.flatnonzero(np.append(True, (np.diff(query) != 0) | (np.diff(above) != 0))[: len(query)])
    positives = np.diff(first, append=len(query))
    return TieGroups(query[first], above[first], size[first], positives, positives.astype(np.float64))


def _sort_keys(scores: Similarities) -> Ints:
    """Integers, all different, that ascend as (−score, row) does, with the row in their lower 32 bits.

    The bits of a float32, read as an integer, ascend with it where it is positive and descend where it is negative.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # + 0: −0.0 and 0.0 are equal, but their bits are not
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (~ascending).astype(np.int64) << 32 | np.arange(scores.shape[1])
