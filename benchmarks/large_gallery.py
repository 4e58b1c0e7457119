"""A large gallery searched with a compressed index (``--index ivfpq``): time, memory and recall against exact search.

    python benchmarks/large_gallery.py --vectors 10000000 --folder /data/gallery

Clustered unit vectors are drawn with fixed seeds and stay in the folder as a float16 array, as a store has them. Two
processes (``--workers``) build the indexes of the gallery's shards, as tasks of the mining stage do; one process then
searches for ``--queries`` unseen vectors of the same distribution, and searches again exactly. Prints one JSON line.

Memory is the peak of each process: what it has of its own (``own``), and all of it with the pages of mapped files
(``resident``), which the system takes back when it needs them. The sum of the peaks of the processes that build is the
most that they can have had together.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from xmrank.config import MineConfig
from xmrank.mine.gallery_index import COMPRESSED_SHARD
from xmrank.mine.nearest import build_index, plan_indexes, plan_searches, read_nearest, search_shard
from xmrank.mine.pool import QueryPool

BLOCK = 65_536
CLUSTER_SIZE = 500
WIDTH = 50
"""Items that a query gets."""


def main() -> None:
    """Draw the gallery, build, search and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=10_000_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--probes", type=int, nargs="+", default=[32])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    gallery = given.folder / f"gallery-{given.vectors}x{given.dimensions}.npy"
    result: dict[str, Any] = {"vectors": given.vectors, "dimensions": given.dimensions, "queries": given.queries}
    if not gallery.exists():
        result["draw_seconds"] = draw_gallery(gallery, given.vectors, given.dimensions, given.workers)
    searches = given.folder / "searches"
    shutil.rmtree(searches, ignore_errors=True)
    result |= build_all(gallery, searches, given.workers)
    size = sum(path.stat().st_size for path in searches.glob("*.faiss"))
    result |= {"index_bytes": size, "bytes_a_vector": round(size / given.vectors, 1)}
    exact = in_process(search_all, gallery, given.queries, MineConfig(strategy="top-k"), given.folder / "exact")
    result["exact"] = exact["figures"]
    for probes in given.probes:
        config = MineConfig(strategy="top-k", index="ivfpq", probes=probes)
        found = in_process(search_all, gallery, given.queries, config, searches)
        recalls = {f"recall_at_{k}": compute_recall(found["items"], exact["items"], k) for k in (1, 10, 50)}
        result[f"ivfpq_probes_{probes}"] = found["figures"] | recalls
    print(json.dumps(result))


def in_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a new process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class MemoryWatch:
    """The peak of this process's own memory, looked at ten times a second, and of all its resident pages."""

    def __init__(self) -> None:
        self.peak = 0
        self.ended = threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        """Look until the figures are asked for."""
        while not self.ended.wait(0.1):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.peak = max(self.peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))

    def figures(self) -> dict[str, float]:
        """Both peaks in GB."""
        self.ended.set()
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"own_gb": round(self.peak * 1024 / 1e9, 2), "resident_gb": round(resident * 1024 / 1e9, 2)}


def draw_gallery(path: Path, vectors: int, dimensions: int, workers: int) -> float:
    """Write the gallery; returns the seconds it took."""
    started = time.monotonic()
    np.lib.format.open_memmap(path, "w+", np.float16, (vectors, dimensions)).flush()
    starts = range(0, vectors, BLOCK)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(draw_block, [path] * len(starts), starts))
    return round(time.monotonic() - started, 1)


def draw_block(path: Path, start: int) -> None:
    """Write some vectors of the gallery."""
    faiss.omp_set_num_threads(1)
    gallery = np.lib.format.open_memmap(path, "r+")
    count = min(BLOCK, len(gallery) - start)
    gallery[start : start + count] = draw_vectors(count, *gallery.shape, stream=start + 1)


def draw_vectors(count: int, vectors: int, dimensions: int, stream: int) -> np.ndarray:
    """Unit vectors around the centres of clusters, float32 [count, dimensions].

    As in embeddings of an encoder, the variance is different in every direction (that of direction i is 1 / i), and the
    directions are not the axes. Half of it is within the clusters, which have ``CLUSTER_SIZE`` vectors on average.
    """
    scales = np.arange(1, dimensions + 1, dtype=np.float32) ** -0.5
    axes = np.linalg.qr(np.random.default_rng(1).standard_normal((dimensions, dimensions), np.float32))[0]
    generator = np.random.default_rng([2, stream])
    drawn = generator.standard_normal((count, dimensions), np.float32)
    centres = draw_centres(max(1, vectors // CLUSTER_SIZE), dimensions)
    drawn += centres[generator.integers(len(centres), size=count)]
    drawn = drawn * scales @ axes.T
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@lru_cache(maxsize=1)
def draw_centres(count: int, dimensions: int) -> np.ndarray:
    """The centres of the clusters, made once a process."""
    return np.random.default_rng(3).standard_normal((count, dimensions), np.float32)


def make_pool(vectors: int, queries: int) -> QueryPool:
    """Queries that have no own items in the gallery."""
    none = np.zeros(queries, np.int64)
    return QueryPool("t2i", np.arange(queries), np.arange(vectors), none, none)


def build_all(gallery: Path, folder: Path, workers: int) -> dict[str, Any]:
    """Build the indexes of all shards, each as a task, and say how long it took and what memory."""
    config = MineConfig(strategy="top-k", index="ivfpq")
    shards = plan_indexes(make_pool(len(np.load(gallery, mmap_mode="r")), 1), config, folder)
    started = time.monotonic()
    # A process for each task: peaks of memory are those of a process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        built = list(pool.map(build_one, [gallery] * len(shards), shards, [folder] * len(shards)))
    wall = time.monotonic() - started
    most = {name: max(figures[name] for figures in built) for name in built[0]}
    return {
        "shards": len(shards),
        "shard_size": COMPRESSED_SHARD,
        "build_wall_seconds": round(wall, 1),
        "build_cpu_seconds": round(sum(figures["cpu_seconds"] for figures in built), 1),
        "build_workers": workers,
        "build_own_gb": most["own_gb"],
        "build_resident_gb": most["resident_gb"],
        "build_resident_gb_all_workers": round(min(workers, len(shards)) * most["resident_gb"], 2),
    }


def build_one(gallery: Path, shard: int, folder: Path) -> dict[str, float]:
    """Build the index of a shard."""
    watch = MemoryWatch()
    side = np.load(gallery, mmap_mode="r")
    config = MineConfig(strategy="top-k", index="ivfpq")
    build_index(shard, make_pool(len(side), 1), side, config, folder)
    return {"cpu_seconds": time.process_time(), **watch.figures()}


def search_all(gallery: Path, queries: int, config: MineConfig, folder: Path) -> dict[str, Any]:
    """Search for all queries with one thread; the items and the figures."""
    watch = MemoryWatch()
    side = np.load(gallery, mmap_mode="r")
    vectors = draw_vectors(queries, *side.shape, stream=0)
    pool = make_pool(len(side), queries)
    for path in folder.glob("*.npy"):
        path.unlink()
    started, cpu = time.monotonic(), time.process_time()
    for search in plan_searches(pool, config, WIDTH, folder):
        search_shard(search, pool, vectors, side, config)
    nearest = read_nearest(folder, pool, 0, queries, config)
    wall, cpu = time.monotonic() - started, time.process_time() - cpu
    figures = {
        "search_wall_ms_a_query": round(1000 * wall / queries, 2),
        "search_cpu_ms_a_query": round(1000 * cpu / queries, 2),
        "similarity_of_1st": round(float(np.median(nearest.similarity[:, 0])), 3),
        "similarity_of_50th": round(float(np.median(nearest.similarity[:, WIDTH - 1])), 3),
        **watch.figures(),
    }
    return {"items": nearest.items, "figures": figures}


def compute_recall(found: np.ndarray, exact: np.ndarray, count: int) -> float:
    """How many of the ``count`` nearest items are among the first ``count`` that were found, on average."""
    same = [len(np.intersect1d(one[:count], other[:count])) for one, other in zip(found, exact, strict=True)]
    return round(float(np.mean(same)) / count, 4)


if __name__ == "__main__":
    main()
