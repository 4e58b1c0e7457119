"""A chunk of queries as a task: the same lists wherever and in whatever order it runs."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import faiss
import numpy as np

from xmrank.config import Direction, MineConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.assemble import assemble
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.nearest import GallerySearch, nearest, search_shard
from xmrank.mine.pool import QueryPool, make_pool, one_per_image
from xmrank.mine.relevance import graded
from xmrank.mine.roles import Role, RoleImages, choose_parts
from xmrank.mine.strategies import STRATEGIES, QueryChunk

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


def planned_pool(store: EmbeddingStore, part: RoleImages, direction: Direction, config: MineConfig) -> QueryPool:
    """The pool of a direction and part, with one caption an image asking when the configuration says so."""
    pool = make_pool(store, part, direction)
    if direction == "t2i" and config.captions == "one" and len(pool.queries):
        pool = one_per_image(pool, stream(config.seed, direction, part.role, chunk=-1))
    return pool


def stream(seed: int, direction: Direction, role: Role, chunk: int) -> np.random.Generator:
    """The random numbers of one chunk: they depend on nothing but its name, so not on the number of workers."""
    return np.random.default_rng([seed, STREAMS[direction, role], chunk + 1])


def mine_chunk(task: MiningTask) -> CandidateLists:
    """The lists of one chunk of queries."""
    store, whole = opened(task.store, task.config, task.direction, task.role)
    start, stop = task.chunk * CHUNK, min((task.chunk + 1) * CHUNK, len(whole.queries))
    pool, (queries, side) = whole[start:stop], sides(store, task.direction)
    generator = stream(task.config.seed, task.direction, task.role, task.chunk)
    chunk = QueryChunk(
        pool,
        queries[pool.queries].astype(np.float32),
        side,
        generator,
        task.config,
        index=lambda: flat_index(task.store, task.config, task.direction, task.role),
        nearest=lambda: nearest(task.searches, whole, start, stop, task.config),
    )
    lists = assemble(pool, STRATEGIES[task.config.strategy](chunk), generator)
    return replace(lists, labels=graded(lists, store, task.direction, task.role, task.config))


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
    store, pool = opened(task.store, task.config, task.direction, task.role)
    return search_shard(task.search, pool, *sides(store, task.direction), task.config)


def sides(store: EmbeddingStore, direction: Direction) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of the query side and of the gallery's side."""
    return (store.image, store.text) if direction == "i2t" else (store.text, store.image)


@lru_cache(maxsize=2)
def opened(directory: Path, config: MineConfig, direction: Direction, role: Role) -> tuple[EmbeddingStore, QueryPool]:
    """A process's store and pool of one direction and role, made once for all its tasks."""
    store = EmbeddingStore.open(directory)
    return store, planned_pool(store, choose_parts(store, config)[role], direction, config)


@lru_cache(maxsize=1)  # one index in memory at a time
def flat_index(directory: Path, config: MineConfig, direction: Direction, role: Role) -> faiss.IndexFlat:
    """A process's flat index of the whole gallery, made once for all its chunks."""
    faiss.omp_set_num_threads(1)  # searches of one query: threads only cost
    store, pool = opened(directory, config, direction, role)
    index = faiss.IndexFlatIP(store.dimensions)
    side = sides(store, direction)[1]
    for start in range(0, len(pool.gallery), 65536):
        index.add(side[pool.gallery[start : start + 65536]].astype(np.float32))
    return index
