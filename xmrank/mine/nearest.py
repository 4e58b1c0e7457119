"""Each query's nearest items in the whole gallery, searched shard by shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from xmrank.config import MineConfig
from xmrank.mine.assemble import RankedItems
from xmrank.mine.pool import QueryPool
from xmrank.runtime.files import write_array

SHARD = 262_144
"""Gallery items of one index: what a worker holds in memory. Part of the result: partial results are merged."""
PART = 16_384
"""Queries of one task."""
SEARCH = 1024
"""Queries of one call of the index."""
HNSW_LINKS = 32
SEED_OF_CLUSTERS = 1234
POINTS_A_CLUSTER = 64
"""Items that an inverted list's centre is trained on at most, and of a list on average at least."""


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
        """The file of one of its arrays."""
        return result_path(self.folder, self.start, self.shard, kind)


def planned_searches(pool: QueryPool, config: MineConfig, width: int, folder: Path) -> Iterator[GallerySearch]:
    """All searches that are not done, shard by shard.

    Only a flat index is made so quickly that each part of the queries may make its own.
    """
    queries = len(pool.queries)
    for shard in range(shards_of(pool)):
        for start in range(0, queries, part_size(config, queries)):
            search = GallerySearch(start, min(start + part_size(config, queries), queries), shard, width, folder)
            if not search.path("items").exists():
                yield search


def shards_of(pool: QueryPool) -> int:
    """Number of the gallery's shards."""
    return -(-len(pool.gallery) // SHARD)


def part_size(config: MineConfig, queries: int) -> int:
    """Queries of one search."""
    return PART if config.index == "flat" else max(queries, 1)


def result_path(folder: Path, start: int, shard: int, kind: str) -> Path:
    """Where an array of the search of a part in a shard is."""
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
    faiss.omp_set_num_threads(1)
    first = search.shard * SHARD
    rows = pool.gallery[first : first + SHARD]
    index = make_index(side, rows, config)
    items = np.full((search.stop - search.start, search.width), -1)
    similarity = np.full(items.shape, -np.inf, np.float32)
    for start in range(search.start, search.stop, SEARCH):
        stop = min(start + SEARCH, search.stop)
        asked = queries[pool.queries[start:stop]].astype(np.float32)
        values, found = index.search(asked, min(search.width, len(rows)))  # type: ignore[call-arg]
        place = slice(start - search.start, stop - search.start), slice(found.shape[1])
        items[place] = np.where(found >= 0, found + first, -1)
        similarity[place] = np.where(found >= 0, values, -np.inf)
    write_array(search.path("similarity"), similarity)
    write_array(search.path("items"), items)  # last: a search with this file is done
    return search.stop - search.start


def make_index(side: np.ndarray, rows: np.ndarray, config: MineConfig) -> faiss.Index:
    """An inner-product index of some rows of a side, on a GPU when FAISS has one."""
    dimensions = side.shape[1]
    index: faiss.Index = faiss.IndexFlatIP(dimensions)
    if config.index == "ivf":
        lists = max(1, min(round(4 * len(rows) ** 0.5), len(rows) // POINTS_A_CLUSTER))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(config.probes, lists)
        index.cp.seed = SEED_OF_CLUSTERS
        index.cp.max_points_per_centroid = POINTS_A_CLUSTER
        step = -(-len(rows) // (lists * POINTS_A_CLUSTER))
        index.train(side[rows[::step]].astype(np.float32))
    elif config.index == "hnsw":
        index = faiss.IndexHNSWFlat(dimensions, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = config.ef_search
    if config.index != "hnsw" and getattr(faiss, "get_num_gpus", lambda: 0)():
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    for start in range(0, len(rows), 65536):
        index.add(side[rows[start : start + 65536]].astype(np.float32))
    return index


def nearest(folder: Path, pool: QueryPool, start: int, stop: int, config: MineConfig) -> RankedItems:
    """The nearest items of some queries over all shards; between equal similarities the gallery's order decides.

    Args:
        folder: of the searches' results.
        pool: with all queries.
        start, stop: which queries; they are of one search.
        config: which index.
    """
    part = start - start % part_size(config, len(pool.queries))
    items, similarity = (
        np.concatenate(
            [
                np.load(result_path(folder, part, shard, kind), mmap_mode="r")[start - part : stop - part]
                for shard in range(shards_of(pool))
            ],
            axis=1,
        )
        for kind in ("items", "similarity")
    )
    order = np.lexsort((items, -similarity), axis=1)[:, : items.shape[1] // shards_of(pool)]
    return RankedItems(np.take_along_axis(items, order, 1), np.take_along_axis(similarity, order, 1))
