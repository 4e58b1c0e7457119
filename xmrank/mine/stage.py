"""The mining stage: candidate lists for both directions and every role."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from xmrank.config import DIRECTIONS, Direction, MineConfig, semantic
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists, read_parts, write_lists
from xmrank.mine.chunks import (
    IndexTask,
    MiningTask,
    SearchTask,
    count_chunks,
    mine_chunk,
    plan_pool,
    run_build,
    run_search,
)
from xmrank.mine.gallery_index import can_use_gpus, sees_gpu
from xmrank.mine.in_memory import refuse_short_gallery
from xmrank.mine.list_paths import SPLITS, STAGE, lists_path
from xmrank.mine.nearest import count_shards, plan_indexes, plan_searches
from xmrank.mine.pool import QueryPool
from xmrank.mine.relevance import read_relevance_texts
from xmrank.mine.roles import ROLES, Role, RoleImages, choose_role_images, describe_unused
from xmrank.mine.strategies import count_searched
from xmrank.runtime.device import CPU, CUDA
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_file, write_json
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.pieces import record_piece
from xmrank.runtime.progress import Progress, show_activity
from xmrank.runtime.storage import remove_tree

Item = TypeVar("Item")
Result = TypeVar("Result")

COUNTED = 65_536
"""Lists that are in memory at once when they are counted."""
RAY_PAYS_FROM = 50_000
"""Queries from which a cluster is worth its start; fewer are mined in this process, to the same lists."""


def mine(config: MineConfig) -> Manifest:
    """Mine the lists ``{direction}-{role}.parquet``; files that an interrupted run finished are kept.

    Raises:
        ConfigError: a split that does not exist, or lists longer than the gallery.
        DataError: no finished embedding store.
    """
    store = EmbeddingStore.open(resolve(config.embeddings))
    parts = choose_role_images(store, config)
    pools = {(d, role): plan_pool(store, parts[role], d, config) for d in DIRECTIONS for role in ROLES}
    # Everything that could refuse the run is checked before the directory is touched.
    for (direction, role), pool in pools.items():
        refuse_short_gallery(pool, parts[role], direction, config)
    output = resolve(config.output)
    stage = StageDirectory.open(
        output, STAGE, config=semantic(config), inputs=hash_inputs(config, store), overwrite=config.overwrite
    )
    if unused := describe_unused(store, parts):
        print(f"mine: splits that no list is made of: {unused} (--train-split, --validation-split, --test-split)")
    manifest = stage.done or mine_all(stage, config, store, parts, pools)
    print(f"mine: {manifest.counts['lists']} lists in {output}")
    return manifest


def hash_inputs(config: MineConfig, store: EmbeddingStore) -> dict[str, str]:
    """The fingerprints of what the lists are made from; ``--relevance-texts`` is checked as well."""
    inputs = {"embeddings": store.fingerprint}
    if config.relevance_texts:
        read_relevance_texts(config, store)
        inputs["relevance_texts"] = sha256_file(resolve(config.relevance_texts))
    return inputs


def mine_all(
    stage: StageDirectory,
    config: MineConfig,
    store: EmbeddingStore,
    parts: dict[Role, RoleImages],
    pools: dict[tuple[Direction, Role], QueryPool],
) -> Manifest:
    """Mine the lists that are missing and finish the stage."""
    counts: dict[str, Any] = {"lists": 0, "queries_without_positives": {}}
    for (direction, role), pool in pools.items():
        path = lists_path(stage.directory, direction, role)
        if not path.exists():
            searches = stage.work / f"{direction}-{role}"
            search_gallery(store, pool, config, role, searches)
            write_lists(path, mine_pool(store, pool, config, role, searches))
            record_piece(stage.work, path.stem, [path])
            remove_tree(searches)
        # Read back, so that lists of an earlier run are counted too.
        counts[f"{direction}_{role}"] = described = describe_file(path, len(pool.gallery))
        counts["lists"] += described["queries"]
        if direction == "i2t":
            # Images without captions: every caption has an image.
            counts["queries_without_positives"][role] = len(parts[role].images) - len(pool.queries)
    splits = {role: {"split": part.split, "images": part.images.tolist()} for role, part in parts.items()}
    write_json(stage.directory / SPLITS, splits)
    return stage.finish(counts=counts)


def describe_file(path: Path, gallery: int) -> dict[str, Any]:
    """The numbers of the lists in a file of this stage; without a record of what was finished, it may be damaged.

    Raises:
        DataError: says what is wrong, and how the file is made anew.
    """
    try:
        return describe_lists(read_parts(path, COUNTED), gallery)
    except DataError as error:
        raise DataError(f"{error}; remove this file and run the same command again (or --overwrite)") from None


def search_gallery(store: EmbeddingStore, pool: QueryPool, config: MineConfig, role: Role, folder: Path) -> None:
    """Search the whole gallery, if the strategy needs it; searches that an interrupted run finished are kept."""
    width = count_searched(config, pool)
    if not width:
        return
    build_indexes(store, pool, config, role, folder)
    left = list(plan_searches(pool, config, width, folder))
    tasks = [SearchTask(store.directory, config, pool.direction, role, search) for search in left]
    # Every query is searched once in every shard.
    total = count_shards(pool, config) * len(pool.queries)
    with Progress(f"search {pool.direction} {role}", total) as progress:
        progress.advance(total - sum(search.stop - search.start for search in left))
        on_gpus = can_use_gpus(config)
        for queries in run_chunks(run_search, tasks, len(pool.queries), config.workers, on_gpus=on_gpus):
            progress.advance(queries)


def build_indexes(store: EmbeddingStore, pool: QueryPool, config: MineConfig, role: Role, folder: Path) -> None:
    """Build the indexes that all searches of a folder use; those that an interrupted run finished are kept."""
    shards = plan_indexes(pool, config, folder)
    if not shards:
        return
    tasks = [IndexTask(store.directory, config, pool.direction, role, shard, folder) for shard in shards]
    with Progress(f"index {pool.direction} {role}", len(tasks)) as progress:
        # A large gallery takes long to index, however few the queries are.
        for built in run_chunks(run_build, tasks, len(pool.gallery), config.workers):
            progress.advance(built)


def mine_pool(
    store: EmbeddingStore, pool: QueryPool, config: MineConfig, role: Role, searches: Path
) -> Iterator[CandidateLists]:
    """The lists of one direction and role, chunk by chunk."""
    tasks = [
        MiningTask(store.directory, config, pool.direction, role, chunk, searches)
        for chunk in range(count_chunks(pool))
    ]
    with Progress(f"mine {pool.direction} {role}", len(pool.queries)) as progress:
        for lists in run_chunks(mine_chunk, tasks, len(pool.queries), config.workers):
            progress.advance(len(lists))
            yield lists


def describe_lists(parts: Iterable[CandidateLists], gallery: int) -> dict[str, Any]:
    """The numbers of the paper's Table 1 for lists that come in parts: queries, labelled objects and list lengths.

    ``positives_last`` counts the lists whose positives are all less similar than every negative. There the right
    answer can be told by how the list was made: the negatives are the most similar of many, the positive is added
    whatever its similarity.
    """
    sums = {"queries": 0, "objects": 0, "positives": 0, "positives_last": 0}
    lengths: set[int] = set()
    for lists in parts:
        sums["queries"] += len(lists)
        sums["objects"] += len(lists.candidates)
        sums["positives"] += int((lists.labels > 0).sum())
        sums["positives_last"] += count_positives_last(lists)
        lengths.update(np.unique(lists.lengths).tolist())
    return {
        **sums,
        "shortest": min(lengths, default=0),
        "longest": max(lengths, default=0),
        "gallery": gallery,
    }


def count_positives_last(lists: CandidateLists) -> int:
    """How many lists have positives and negatives, and all positives behind all negatives by similarity."""
    if not len(lists):
        return 0
    starts, positive = lists.offsets[:-1], lists.labels > 0
    best = np.maximum.reduceat(np.where(positive, lists.similarity, -np.inf), starts)
    worst = np.minimum.reduceat(np.where(positive, np.inf, lists.similarity), starts)
    # Infinite where a list has no positive, or no negative.
    return int(((best < worst) & np.isfinite(best) & np.isfinite(worst)).sum())


def run_chunks(
    function: Callable[[Item], Result], tasks: list[Item], queries: int, workers: int, *, on_gpus: bool = False
) -> Iterator[Result]:
    """The results of all tasks, in order: computed here, or on the cluster when it pays; GPUs serve searches only."""
    if queries < RAY_PAYS_FROM and workers in (0, 1):
        show_activity("lists", device=CUDA if on_gpus and sees_gpu() else CPU)
        return map(function, tasks)
    from xmrank.runtime.cluster import run_tasks  # Ray takes seconds to import, and most mining does without

    return run_tasks(function, tasks, workers, on_gpus=on_gpus)
