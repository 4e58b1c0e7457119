"""Each query's nearest items in the whole gallery, searched shard by shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xmrank.config import MineConfig
from xmrank.mine.assemble import RankedItems, with_cosine
from xmrank.mine.gallery_index import (
    COMPRESSED_SHARD,
    SHARD,
    make_compressed_index,
    make_index,
    release_pages,
    use_one_thread,
)
from xmrank.mine.pool import QueryPool
from xmrank.runtime.files import atomic_path, write_array
from xmrank.runtime.storage import local_copy

if TYPE_CHECKING:
    import faiss

PART = 16_384
"""Queries of one task."""
LONG_PART = 262_144
"""Queries of one task whose index takes long to build: its result is in memory, 12 bytes for each item found."""
SEARCH = 1024
"""Queries of one call of the index."""
COMPARED_AGAIN = 10
"""ivfpq: items that are compared by their embeddings, for each item that a query gets."""


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
    for shard in range(count_shards(pool, config)):
        for start in range(0, queries, size):
            search = GallerySearch(start, min(start + size, queries), shard, width, folder)
            if not search.path("items").exists():
                yield search


def shard_size(config: MineConfig) -> int:
    """Gallery items of one index."""
    return COMPRESSED_SHARD if config.index == "ivfpq" else SHARD


def count_shards(pool: QueryPool, config: MineConfig) -> int:
    """Number of the gallery's shards."""
    return -(-len(pool.gallery) // shard_size(config))


def queries_per_search(config: MineConfig, queries: int) -> int:
    """Queries of one search; more of them where each search builds an index that takes long."""
    return max(1, min(queries, LONG_PART)) if config.index in ("ivf", "hnsw") else PART


def result_path(folder: Path, start: int, shard: int, kind: str) -> Path:
    """The file of an array (items or similarity) of the search that begins at query ``start``, in a shard."""
    return folder / f"{start:09d}-{shard:05d}.{kind}.npy"


def plan_indexes(pool: QueryPool, config: MineConfig, folder: Path) -> list[int]:
    """The shards whose index is built before the searches and is not there yet; only for ``--index ivfpq``."""
    if config.index != "ivfpq":
        return []
    return [shard for shard in range(count_shards(pool, config)) if not index_path(folder, shard).exists()]


def index_path(folder: Path, shard: int) -> Path:
    """The file of a shard's index."""
    return folder / f"{shard:05d}.faiss"


def build_index(shard: int, pool: QueryPool, side: np.ndarray, config: MineConfig, folder: Path) -> None:
    """Build a shard's compressed index and write it.

    Args:
        shard: number of the shard.
        pool: with the gallery.
        side: embeddings of the gallery's side, [rows, d].
        config: settings of the index.
        folder: of the searches.
    """
    import faiss

    first = shard * shard_size(config)
    index = make_compressed_index(side, pool.gallery[first : first + shard_size(config)], config)
    # As bytes: FAISS's own writer gives no reason on a full disk.
    with atomic_path(index_path(folder, shard)) as temporary:
        temporary.write_bytes(faiss.serialize_index(index).data)


def open_index(search: GallerySearch, rows: np.ndarray, side: np.ndarray, config: MineConfig) -> "faiss.Index":
    """The index of a search's shard: the one that was built before, or one for this search alone."""
    import faiss

    if config.index != "ivfpq":
        return make_index(side, rows, config)
    file = local_copy(index_path(search.folder, search.shard))
    index = read_index(file, file.stat().st_mtime_ns)
    # A flat index, of few items, has none.
    if isinstance(index, faiss.IndexIVF):
        index.nprobe = min(config.probes, index.nlist)
    return index


@lru_cache(maxsize=1)  # searches are planned shard by shard
def read_index(file: Path, time: int) -> "faiss.Index":  # noqa: ARG001
    """The index in a file; its time is part of the cache's key, so that another one of that name is read again."""
    import faiss

    return faiss.read_index(str(file))


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
    first = search.shard * shard_size(config)
    rows = pool.gallery[first : first + shard_size(config)]
    index = open_index(search, rows, side, config)
    # The codes of a compressed index tell the similarity roughly: more items are looked at again.
    width = search.width * (COMPARED_AGAIN if config.index == "ivfpq" else 1)
    items = np.full((search.stop - search.start, search.width), -1)
    similarity = np.full(items.shape, -np.inf, np.float32)
    for start in range(search.start, search.stop, SEARCH):
        part = pool[start : min(start + SEARCH, search.stop)]
        vectors = queries[part.queries].astype(np.float32)
        values, ids = index.search(vectors, min(width, len(rows)))  # type: ignore[call-arg]
        # Ids count from the start of the shard.
        found = RankedItems(np.where(ids >= 0, ids + first, -1), np.where(ids >= 0, values, -np.inf))
        if config.index == "ivfpq":
            found = with_cosine(part, found.items, vectors, side).sort_by_similarity().take_first(search.width)
            release_pages(side)
        # A shard may hold fewer items than the width, and an approximate index may return fewer: the rest stays -1.
        block = slice(start - search.start, start - search.start + len(vectors)), slice(found.items.shape[1])
        items[block] = found.items
        similarity[block] = np.where(found.items >= 0, found.similarity, -np.inf)
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
    shards = count_shards(pool, config)

    def read_array(kind: str) -> np.ndarray:
        paths = [result_path(folder, part, shard, kind) for shard in range(shards)]
        arrays = [np.load(local_copy(path), mmap_mode="r") for path in paths]
        return np.concatenate([array[start - part : stop - part] for array in arrays], axis=1)

    items, similarity = read_array("items"), read_array("similarity")
    # Every shard has its own nearest items; of all of them together, as many are kept.
    width = items.shape[1] // shards
    return RankedItems(items, similarity).reorder(np.lexsort((items, -similarity), axis=1)[:, :width])
