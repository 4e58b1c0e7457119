"""A chunk of queries as a task: the same lists wherever and in whatever order it runs."""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import faiss
import numpy as np

from xmrank.candidates.lists import Lists
from xmrank.candidates.pool import Pool, make_pool, one_per_image
from xmrank.candidates.random_hard import random_hard
from xmrank.candidates.splits import Part, Role, choose_parts
from xmrank.config import Direction, MineConfig
from xmrank.embedding import EmbeddingStore

CHUNK = 1024
"""Queries of one task. Part of the result: every chunk has its own stream of random numbers."""


@dataclass(frozen=True)
class Task:
    """One chunk of queries of one direction and role."""

    store: Path
    config: MineConfig
    direction: Direction
    role: Role
    chunk: int


def planned_pool(store: EmbeddingStore, part: Part, direction: Direction, config: MineConfig) -> Pool:
    """The pool of a direction and part, with one caption an image asking when the configuration says so."""
    pool = make_pool(store, part, direction)
    if direction == "t2i" and config.captions == "one" and len(pool.queries):
        pool = one_per_image(pool, stream(config.seed, direction, part.role, chunk=-1))
    return pool


def stream(seed: int, direction: Direction, role: Role, chunk: int) -> np.random.Generator:
    """The random numbers of one chunk: they depend on nothing but its name, so not on the number of workers."""
    return np.random.default_rng([seed, zlib.crc32(f"{direction} {role}".encode()), chunk + 1])


def mine_chunk(task: Task) -> Lists:
    """The lists of one chunk of queries."""
    store, pool, index = prepared(task.store, task.config, task.direction, task.role)
    part = pool[task.chunk * CHUNK : (task.chunk + 1) * CHUNK]
    queries = (store.image if task.direction == "i2t" else store.text)[part.queries].astype(np.float32)
    return random_hard(
        part,
        queries,
        index,
        stream(task.config.seed, task.direction, task.role, task.chunk),
        random_candidates=task.config.random_candidates,
        hard_negatives=task.config.hard_negatives,
        positives=task.config.positives,
    )


@lru_cache(maxsize=1)  # one index in memory at a time
def prepared(
    directory: Path, config: MineConfig, direction: Direction, role: Role
) -> tuple[EmbeddingStore, Pool, faiss.Index]:
    """A process's store, pool and index of one direction and role, made once for all its chunks."""
    faiss.omp_set_num_threads(1)  # searches of one query: threads only cost
    store = EmbeddingStore.open(directory)
    pool = planned_pool(store, choose_parts(store, config)[role], direction, config)
    index = faiss.IndexFlatIP(store.dimensions)
    side = store.text if direction == "i2t" else store.image
    for start in range(0, len(pool.gallery), 65536):
        index.add(side[pool.gallery[start : start + 65536]].astype(np.float32))
    return store, pool, index
