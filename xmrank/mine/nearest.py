"""Each query's nearest items in the whole gallery, searched shard by shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmrank.config import MineConfig
from xmrank.mine.assemble import RankedItems
from xmrank.mine.gallery_index import SHARD, make_index, use_one_thread
from xmrank.mine.pool import QueryPool
from xmrank.runtime.files import write_array
from xmrank.runtime.storage import local_copy

PART = 16_384
"""Queries of one task."""
SEARCH = 1024
"""Queries of one call of the index."""


@dataclass(frozen=True)
class GallerySearch:
    """One task: some queries in one shard of the gallery.

    Attributes:
        start, stop: of the queries.
        shard: number of the shard.
        width: items a query gets.
        folder: takes the result's two arrays.
    """

    start: int
    stop: int
    shard: int
    width: int
    folder: Path

    def path(self, kind: str) -> Path:
        """The file of one of the result's arrays."""
        return result_path(self.folder, self.start, self.shard, kind)


def plan_searches(pool: QueryPool, config: MineConfig, width: int, folder: Path) -> Iterator[GallerySearch]:
    """All searches that are not done, shard by shard."""
    queries = len(pool.queries)
    size = queries_per_search(config, queries)
    for shard in range(count_shards(pool)):
        for start in range(0, queries, size):
            search = GallerySearch(start, min(start + size, queries), shard, width, folder)
            if not search.path("items").exists():
                yield search


def count_shards(pool: QueryPool) -> int:
    """Number of the gallery's shards."""
    return -(-len(pool.gallery) // SHARD)


def queries_per_search(config: MineConfig, queries: int) -> int:
    """Queries of one search: a part of them with a flat index, all of them with one that takes long to build."""
    return PART if config.index == "flat" else max(queries, 1)


def result_path(folder: Path, start: int, shard: int, kind: str) -> Path:
    """The file of an array (items or similarity) of the search that begins at query ``start``, in a shard."""
    return folder / f"{start:09d}-{shard:05d}.{kind}.npy"


def search_shard(
    search: GallerySearch, pool: QueryPool, queries: np.ndarray, side: np.ndarray, config: MineConfig
) -> int:
    """Search, and write the result.

    Args:
        search: what to do.
        pool: with all queries.
        queries, side: embeddings of the query side and of the gallery's side, [rows, d].
        config: which index.

    Returns:
        The number of queries.
    """
    use_one_thread()
    first = search.shard * SHARD
    rows = pool.gallery[first : first + SHARD]
    # Ids count from the start of the shard, so ``first`` is added to them below.
    index = make_index(side, rows, config)
    items = np.full((search.stop - search.start, search.width), -1)
    similarity = np.full(items.shape, -np.inf, np.float32)
    for start in range(search.start, search.stop, SEARCH):
        stop = min(start + SEARCH, search.stop)
        vectors = queries[pool.queries[start:stop]].astype(np.float32)
        values, ids = index.search(vectors, min(search.width, len(rows)))  # type: ignore[call-arg]
        # A shard may hold fewer items than the width, and an approximate index may return fewer: the rest stays -1.
        block = slice(start - search.start, stop - search.start), slice(ids.shape[1])
        items[block] = np.where(ids >= 0, ids + first, -1)
        similarity[block] = np.where(ids >= 0, values, -np.inf)
    write_array(search.path("similarity"), similarity)
    write_array(search.path("items"), items)  # last: a search with this file is done
    return search.stop - search.start


def read_nearest(folder: Path, pool: QueryPool, start: int, stop: int, config: MineConfig) -> RankedItems:
    """The nearest items of some queries over all shards; between equal similarities the gallery's order decides.

    Args:
        folder: of the searches' results.
        pool: with all queries.
        start, stop: which queries; they are of one search.
        config: which index.
    """
    # All queries of a chunk are in one search, because its length divides that of a search.
    part = start - start % queries_per_search(config, len(pool.queries))
    shards = count_shards(pool)

    def read_array(kind: str) -> np.ndarray:
        paths = [result_path(folder, part, shard, kind) for shard in range(shards)]
        arrays = [np.load(local_copy(path), mmap_mode="r") for path in paths]
        return np.concatenate([array[start - part : stop - part] for array in arrays], axis=1)

    items, similarity = read_array("items"), read_array("similarity")
    # Every shard has its own nearest items; of all of them together, as many are kept.
    width = items.shape[1] // shards
    return RankedItems(items, similarity).reorder(np.lexsort((items, -similarity), axis=1)[:, :width])
