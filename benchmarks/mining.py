"""Candidate mining compared with a naive loop and with plain FAISS, on random embeddings.

    python benchmarks/mining.py                # Flickr30k's size: 29,000 images, 145,000 captions, 512 dimensions
    python benchmarks/mining.py --large        # and top-k for 10,000 queries in a gallery of 1,000,000 items

Runs on one core. Prints one JSON line: seconds, queries per second, ratios to the naive loop and FAISS in the same run,
and peak memory beyond the interpreter with everything imported.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from xmrank.config import DIRECTIONS, Direction, MineConfig
from xmrank.datasets.reader_settings import ArraySettings
from xmrank.embed.importing import import_embeddings
from xmrank.mine.chunks import CHUNK, MiningTask, SearchTask, mine_chunk, open_pool, run_search
from xmrank.mine.nearest import plan_searches
from xmrank.mine.strategies import count_searched

IMAGES, CAPTIONS, DIMENSIONS = 29_000, 5, 512
SAMPLE, SEARCHED = 1_000, 10_000
"""Queries of the naive loop, whose time is scaled up to all queries; queries of the searches in the full gallery."""
LARGE = 1_000_000
PEERS = ("i2t peers", "t2i peers")


def main() -> None:
    """Run every part in a process of its own, to measure its memory, and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [(part, "store", arguments.images, CAPTIONS) for part in (*DIRECTIONS, *PEERS)]
        parts += [("million", "million", LARGE, 1)] * arguments.large
        for part, store, images, captions in parts:
            # Both directions and their peers use the same store.
            if not (folder / store).exists():
                in_process(make_store, folder / store, images, captions)
            result[part] = in_process(measure, part, folder / store / "embeddings", folder)
    for direction in DIRECTIONS:
        ours, peers = result[direction], result[f"{direction} peers"]
        peers["times_naive"] = round(peers["naive_seconds_scaled"] / ours["random_hard_seconds"], 1)
        peers["times_faiss_flat"] = round(peers["faiss_flat_seconds"] / ours["top_50_seconds"], 2)
    print(json.dumps(result))


def in_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(part: str, directory: Path, folder: Path) -> dict[str, float]:
    """The figures of one part, and how much the process's memory grew meanwhile."""
    faiss.omp_set_num_threads(1)
    before = peak_mib()
    direction: Direction = "i2t" if part.startswith("i2t") else "t2i"
    figures = peers(directory, direction) if part in PEERS else ours(directory, direction, folder)
    return {**figures, "peak_mib_above_start": round(peak_mib() - before)}


def make_store(directory: Path, images: int, captions: int, val: int = 300) -> Path:
    """A store of random unit embeddings with a training split and small validation and test splits."""
    generator = np.random.default_rng(0)
    counts = {"train": images, "val": val, "test": 300}
    names = [name for name, count in counts.items() for _ in range(count)]  # the split of every image
    directory.mkdir()
    for name, rows in (("images", len(names)), ("texts", len(names) * captions)):
        array = np.lib.format.open_memmap(directory / f"{name}.npy", "w+", np.float16, (rows, DIMENSIONS))
        # In blocks, so that a million rows need no memory of their own.
        for start in range(0, rows, 65536):
            part = generator.standard_normal((min(65536, rows - start), DIMENSIONS), np.float32)
            array[start : start + 65536] = part / np.linalg.norm(part, axis=1, keepdims=True)
    ids = {
        "image_ids": [f"i{row}" for row in range(len(names))],
        "caption_ids": [f"c{row}" for row in range(len(names) * captions)],
        "caption_image": [row // captions for row in range(len(names) * captions)],
        "split": names,
    }
    (directory / "ids.json").write_text(json.dumps(ids))
    settings = ArraySettings(
        import_images=directory / "images.npy",
        import_texts=directory / "texts.npy",
        import_ids=directory / "ids.json",
    )
    import_embeddings(settings, directory / "embeddings")
    return directory / "embeddings"


def ours(directory: Path, direction: Direction, folder: Path) -> dict[str, float]:
    """Seconds of random-hard for all queries (not in the large gallery), and of top-k for a part of them."""
    config = MineConfig(embeddings=directory, captions="all")
    _, pool = open_pool(directory, config, direction, "train")
    count, figures = len(pool.queries), {"gallery": len(pool.gallery)}
    if count < LARGE:
        tasks = [
            MiningTask(directory, config, direction, "train", chunk, folder) for chunk in range(-(-count // CHUNK))
        ]
        figures |= {"queries": count, "random_hard_seconds": timed(lambda: [mine_chunk(task) for task in tasks])}
    top = MineConfig(embeddings=directory, captions="all", strategy="top-k", hard_negatives=50)
    part = pool[slice(0, SEARCHED)]
    searches = plan_searches(part, top, count_searched(top, pool), folder / f"search-{direction}-{count}")
    tasks_ = [SearchTask(directory, top, direction, "train", search) for search in searches]
    return figures | {"searched": SEARCHED, "top_50_seconds": timed(lambda: [run_search(task) for task in tasks_])}


def peers(directory: Path, direction: Direction) -> dict[str, float]:
    """Seconds of the naive loop, scaled to all queries, and of FAISS's flat index."""
    config = MineConfig(embeddings=directory, captions="all")
    store, pool = open_pool(directory, config, direction, "train")
    queries, side = (store.image, store.text) if direction == "i2t" else (store.text, store.image)
    sample = queries[pool.queries[:SEARCHED]].astype(np.float32)
    gallery = side[pool.gallery].astype(np.float32)
    naive = timed(lambda: naive_loop(sample[:SAMPLE], gallery)) * len(pool.queries) / SAMPLE

    def flat() -> None:
        index = faiss.IndexFlatIP(DIMENSIONS)
        index.add(side[pool.gallery].astype(np.float32))
        # As many as a query's own items are searched besides, for they are no negatives.
        index.search(sample, 50 + (CAPTIONS if direction == "i2t" else 1))  # type: ignore[call-arg]

    return {"naive_seconds_scaled": round(naive, 2), "faiss_flat_seconds": timed(flat)}


def naive_loop(queries: np.ndarray, gallery: np.ndarray) -> None:
    """The obvious code: draw with numpy's choice, sort by cosine, keep 50."""
    generator = np.random.RandomState(0)
    for query in queries:
        drawn = generator.choice(len(gallery), 200, replace=False)
        cosine = gallery[drawn] @ query
        drawn[np.argsort(-cosine)[:50]]


def timed(function: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    function()
    return round(time.process_time() - started, 2)


def peak_mib() -> float:
    """The largest resident size of the process so far in MiB, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
