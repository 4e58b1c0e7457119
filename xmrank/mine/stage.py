"""The mining stage: candidate lists for both directions and every role."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from xmrank.config import DIRECTIONS, Direction, MineConfig, semantic
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.chunks import CHUNK, MiningTask, SearchTask, mine_chunk, planned_pool, run_search
from xmrank.mine.list_paths import SPLITS, STAGE, lists_path
from xmrank.mine.nearest import planned_searches, shards_of
from xmrank.mine.pool import QueryPool
from xmrank.mine.relevance import relevance_texts
from xmrank.mine.roles import ROLES, Role, RoleImages, choose_parts
from xmrank.mine.strategies import drawn_negatives, searched_width
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.directory import Manifest, StageDirectory
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import sha256_file, write_json
from xmrank.runtime.paths import resolve
from xmrank.runtime.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

RAY_PAYS_FROM = 50_000
"""Queries from which a cluster is worth its start; fewer are mined in this process, to the same lists."""


def mine(config: MineConfig) -> Manifest:
    """Mine the lists ``{direction}-{role}.parquet``; files that an interrupted run finished are kept.

    Raises:
        ConfigError: a split that is not there, or lists longer than the gallery.
        DataError: no finished embedding store.
    """
    store = EmbeddingStore.open(resolve(config.embeddings))
    parts = choose_parts(store, config)
    pools = {(d, role): planned_pool(store, parts[role], d, config) for d in DIRECTIONS for role in ROLES}
    for (direction, role), pool in pools.items():
        refuse_short_gallery(pool, parts[role], direction, config)
    output = resolve(config.output)
    stage = StageDirectory.open(
        output, STAGE, config=semantic(config), inputs=inputs_of(config, store), overwrite=config.overwrite
    )
    manifest = stage.done or mine_all(stage, config, store, parts, pools)
    print(f"mine: {manifest.counts['lists']} lists in {output}")
    return manifest


def inputs_of(config: MineConfig, store: EmbeddingStore) -> dict[str, str]:
    """The fingerprints of what the lists are made from; the texts are checked on the way."""
    inputs = {"embeddings": store.fingerprint}
    if config.relevance_texts:
        relevance_texts(config, store)
        inputs["relevance_texts"] = sha256_file(resolve(config.relevance_texts))
    return inputs


def mine_all(
    stage: StageDirectory,
    config: MineConfig,
    store: EmbeddingStore,
    parts: dict[Role, RoleImages],
    pools: dict[tuple[Direction, Role], QueryPool],
) -> Manifest:
    """Mine what is missing and finish the stage."""
    counts: dict[str, Any] = {"lists": 0, "queries_without_positives": {}}
    for (direction, role), pool in pools.items():
        path = lists_path(stage.directory, direction, role)
        if not path.exists():
            searches = stage.work / f"{direction}-{role}"
            search_gallery(store, pool, config, direction, role, searches)
            mined = mine_part(store, pool, config, direction, role, searches)
            mined.write(path)
            shutil.rmtree(searches, ignore_errors=True)
        lists = CandidateLists.read(path)
        counts[f"{direction}_{role}"] = describe(lists, len(pool.gallery))
        counts["lists"] += len(lists)
        if direction == "i2t":
            counts["queries_without_positives"][role] = len(parts[role].images) - len(pool.queries)
    splits = {role: {"split": part.split, "images": part.images.tolist()} for role, part in parts.items()}
    write_json(stage.directory / SPLITS, splits)
    return stage.finish(counts=counts)


def search_gallery(
    store: EmbeddingStore, pool: QueryPool, config: MineConfig, direction: Direction, role: Role, folder: Path
) -> None:
    """Search the whole gallery, where the strategy asks for it; searches that an interrupted run finished are kept."""
    width = searched_width(config, pool)
    if not width:
        return
    left = list(planned_searches(pool, config, width, folder))
    tasks = [SearchTask(store.directory, config, direction, role, search) for search in left]
    with Progress(f"search {direction} {role}", shards_of(pool) * len(pool.queries)) as progress:
        progress.advance(shards_of(pool) * len(pool.queries) - sum(s.stop - s.start for s in left))
        for queries in run_chunks(run_search, tasks, len(pool.queries), config.workers):
            progress.advance(queries)


def mine_part(
    store: EmbeddingStore, pool: QueryPool, config: MineConfig, direction: Direction, role: Role, searches: Path
) -> CandidateLists:
    """The lists of one direction and role."""
    chunks = range(-(-len(pool.queries) // CHUNK))
    tasks = [MiningTask(store.directory, config, direction, role, chunk, searches) for chunk in chunks]
    mined = []
    with Progress(f"mine {direction} {role}", len(pool.queries)) as progress:
        for lists in run_chunks(mine_chunk, tasks, len(pool.queries), config.workers):
            mined.append(lists)
            progress.advance(len(lists))
    return CandidateLists.join(mined)


def describe(lists: CandidateLists, gallery: int) -> dict[str, Any]:
    """The row of the paper's Table 1: queries, labelled objects, and the lists' lengths; and what lists give away.

    In a list whose positives are all less similar than every negative, the right answer stands apart by the way the
    list was made: negatives are the most similar of many, the positive is added whatever its similarity.
    """
    lengths = lists.lengths
    shortest, longest = (int(lengths.min()), int(lengths.max())) if len(lists) else (0, 0)
    positives = int((lists.labels > 0).sum())
    objects = len(lists.candidates)
    return {
        "queries": len(lists),
        "objects": objects,
        "positives": positives,
        "positives_last": positives_last(lists),
        "shortest": shortest,
        "longest": longest,
        "gallery": gallery,
    }


def positives_last(lists: CandidateLists) -> int:
    """How many lists have positives and negatives, and all positives behind all negatives by similarity."""
    if not len(lists):
        return 0
    starts, positive = lists.offsets[:-1], lists.labels > 0
    best = np.maximum.reduceat(np.where(positive, lists.similarity, -np.inf), starts)
    worst = np.minimum.reduceat(np.where(positive, np.inf, lists.similarity), starts)
    return int(((best < worst) & np.isfinite(best) & np.isfinite(worst)).sum())


def refuse_short_gallery(pool: QueryPool, part: RoleImages, direction: Direction, config: MineConfig) -> None:
    """Refuse a draw of more candidates than the part has."""
    if not len(pool.queries):
        raise ConfigError(f"--{part.role}-split {part.split}: has no {direction} query with anything to find")
    flag, needed = drawn_negatives(config)
    available = len(pool.gallery) - int((pool.last - pool.first).max())
    if available < needed:
        raise ConfigError(
            f"{flag} {needed}: the {direction} gallery of {part.split} has only {available} items of other images"
        )


def run_chunks(function: Callable[[Item], Result], tasks: list[Item], queries: int, workers: int) -> Iterator[Result]:
    """The results of all tasks, in order: computed here, or on the cluster when it pays."""
    if queries < RAY_PAYS_FROM and workers in (0, 1):
        return map(function, tasks)
    return run_tasks(function, tasks, workers)
