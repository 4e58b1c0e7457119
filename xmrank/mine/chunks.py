"""A chunk of queries as a task: the same lists wherever and in whatever order it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xmrank.config import Direction, MineConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.assemble import assemble_lists
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.gallery_index import make_flat_index
from xmrank.mine.nearest import GallerySearch, build_index, read_nearest, search_shard
from xmrank.mine.pool import QueryPool, make_pool, one_per_image
from xmrank.mine.query_chunk import QueryChunk
from xmrank.mine.relevance import grade_labels
from xmrank.mine.roles import Role, RoleImages, choose_role_images
from xmrank.mine.strategies import STRATEGIES

if TYPE_CHECKING:
    import faiss

CHUNK = 1024
"""Queries of one task. Part of the result: every chunk has its own stream of random numbers."""
STREAMS: dict[tuple[Direction, Role], int] = {
    ("i2t", "train"): 0x54EE95E1,
    ("i2t", "validation"): 0x0F0A0477,
    ("i2t", "test"): 0x5CF5DF49,
    ("t2i", "train"): 0x0F68CDC9,
    ("t2i", "validation"): 0x99434B1F,
    ("t2i", "test"): 0x691BF1EB,
}
"""Separates the draws of directions and roles under the same seed. Other numbers would mine other lists."""


def plan_pool(store: EmbeddingStore, part: RoleImages, direction: Direction, config: MineConfig) -> QueryPool:
    """The pool of a direction and role, with one caption of each image as query when the configuration says so."""
    pool = make_pool(store, part, direction)
    if direction == "t2i" and config.captions == "one" and len(pool.queries):
        # Chunks are numbered from 0: -1 is a stream of its own.
        pool = one_per_image(pool, chunk_generator(config.seed, direction, part.role, chunk=-1))
    return pool


def chunk_generator(seed: int, direction: Direction, role: Role, chunk: int) -> np.random.Generator:
    """The random numbers of one chunk: they depend only on these four, so not on the number of workers."""
    return np.random.default_rng([seed, STREAMS[direction, role], chunk + 1])


def count_chunks(pool: QueryPool) -> int:
    """How many chunks the queries of a pool are mined in."""
    return -(-len(pool.queries) // CHUNK)


def mine_queries(
    store: EmbeddingStore,
    pool: QueryPool,
    config: MineConfig,
    role: Role,
    chunk: int,
    *,
    index: Callable[[], faiss.IndexFlat],
    searches: Path,
) -> CandidateLists:
    """The lists of one chunk of queries.

    Args:
        store: the embeddings.
        pool: all queries of the direction and role.
        config: how to mine.
        role: of the lists.
        chunk: number of the chunk.
        index: makes the flat index of the whole gallery; called only by strategies that need it.
        searches: folder of the results of the searches in the whole gallery, for strategies that need them.
    """
    # The same queries in a chunk however many workers there are.
    start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, len(pool.queries))
    part = pool[start:stop]
    query_side, gallery_side = store_sides(store, pool.direction)
    generator = chunk_generator(config.seed, pool.direction, role, chunk)
    queries = QueryChunk(
        part,
        query_side[part.queries].astype(np.float32),
        gallery_side,
        generator,
        config,
        index=index,
        nearest=lambda: read_nearest(searches, pool, start, stop, config),
    )
    # Candidates, then the order: both draw from the chunk's generator, in this order.
    lists = assemble_lists(part, STRATEGIES[config.strategy](queries), generator)
    return replace(lists, labels=grade_labels(lists, store, pool.direction, role, config))


@dataclass(frozen=True)
class MiningTask:
    """One chunk of queries of one direction and role.

    Attributes:
        searches: folder of the results of the searches in the whole gallery.
    """

    store: Path
    config: MineConfig
    direction: Direction
    role: Role
    chunk: int
    searches: Path


def mine_chunk(task: MiningTask) -> CandidateLists:
    """The lists of one chunk, in a process that may mine others before and after it."""
    about = task.store, task.config, task.direction, task.role
    store, pool = open_pool(*about)
    return mine_queries(
        store,
        pool,
        task.config,
        task.role,
        task.chunk,
        index=lambda: open_flat_index(*about),
        searches=task.searches,
    )


@dataclass(frozen=True)
class IndexTask:
    """The index of one shard of a gallery, for the searches of one direction and role in a folder."""

    store: Path
    config: MineConfig
    direction: Direction
    role: Role
    shard: int
    folder: Path


def run_build(task: IndexTask) -> int:
    """Build and write the index; returns 1, the number of indexes."""
    store, pool = open_pool(task.store, task.config, task.direction, task.role)
    build_index(task.shard, pool, map_read_only(store_sides(store, task.direction)[1]), task.config, task.folder)
    return 1


@dataclass(frozen=True)
class SearchTask:
    """One search of one direction and role."""

    store: Path
    config: MineConfig
    direction: Direction
    role: Role
    search: GallerySearch


def run_search(task: SearchTask) -> int:
    """Search; returns the number of queries."""
    store, pool = open_pool(task.store, task.config, task.direction, task.role)
    queries, side = store_sides(store, task.direction)
    return search_shard(task.search, pool, queries, map_read_only(side), task.config)


def map_read_only(side: np.ndarray) -> np.ndarray:
    """A mapped array mapped once more, for reading only: its pages can be given back (``release_pages``)."""
    if not isinstance(side, np.memmap):
        return side
    return np.memmap(str(side.filename), side.dtype, "r", side.offset, side.shape)


def store_sides(store: EmbeddingStore, direction: Direction) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of the query side and of the gallery's side."""
    return (store.image, store.text) if direction == "i2t" else (store.text, store.image)


@lru_cache(maxsize=2)
def open_pool(
    directory: Path, config: MineConfig, direction: Direction, role: Role
) -> tuple[EmbeddingStore, QueryPool]:
    """A process's store and pool of one direction and role, made once for all its tasks."""
    store = EmbeddingStore.open(directory, verify=False)
    return store, plan_pool(store, choose_role_images(store, config)[role], direction, config)


@lru_cache(maxsize=1)  # one index in memory at a time
def open_flat_index(directory: Path, config: MineConfig, direction: Direction, role: Role) -> faiss.IndexFlat:
    """A process's flat index of the whole gallery, made once for all its chunks."""
    store, pool = open_pool(directory, config, direction, role)
    return make_flat_index(store_sides(store, direction)[1], pool.gallery)
