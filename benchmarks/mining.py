"""Candidate mining against a naive loop and against plain FAISS, on random embeddings.

    python benchmarks/mining.py                # Flickr30k's size: 29,000 images, 145,000 captions, 512 dimensions
    python benchmarks/mining.py --large        # besides: top-k for 10,000 queries in a gallery of 1,000,000 items

One core. Prints one JSON line: seconds, queries a second, ratios to the peers in the same run, peak memory above the
interpreter with everything imported.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from xmrank.candidates.chunks import CHUNK, SearchTask, Task, mine_chunk, opened, run_search
from xmrank.candidates.nearest import planned_searches
from xmrank.candidates.strategies import searched_width
from xmrank.config import DIRECTIONS, Direction, EmbedConfig, MineConfig
from xmrank.embedding.importing import import_embeddings

IMAGES, CAPTIONS, DIMENSIONS = 29_000, 5, 512
SAMPLE = 1_000
"""Queries of the peers, whose time is then scaled up."""


def main() -> None:
    """Run everything and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        directory = make_store(Path(folder) / "store", arguments.images, CAPTIONS)
        before = peak_mib()
        for direction in DIRECTIONS:
            result[direction] = measure(directory, direction, Path(folder))
        result["peak_mib_above_start"] = round(peak_mib() - before)
        if arguments.large:
            big = make_store(Path(folder) / "big", 1_000_000, 1, val=10_000)
            before = peak_mib()
            result["million"] = {"seconds": round(million(big, Path(folder)), 1)}
            result["million"] |= {"peak_mib_above_start": round(peak_mib() - before)}  # type: ignore[operator]
    print(json.dumps(result))


def make_store(directory: Path, images: int, captions: int, val: int = 300) -> Path:
    """A store of random unit embeddings: a training split, and small ones to select and report on."""
    generator = np.random.default_rng(0)
    counts = {"train": images, "val": val, "test": 300}
    names = [name for name, count in counts.items() for _ in range(count)]
    directory.mkdir()
    for name, rows in (("images", len(names)), ("texts", len(names) * captions)):
        array = np.lib.format.open_memmap(directory / f"{name}.npy", "w+", np.float16, (rows, DIMENSIONS))
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
    config = EmbedConfig(
        import_images=directory / "images.npy",
        import_texts=directory / "texts.npy",
        import_ids=directory / "ids.json",
        output=directory / "embeddings",
    )
    import_embeddings(config)
    return directory / "embeddings"


def measure(directory: Path, direction: Direction, folder: Path) -> dict[str, object]:
    """random-hard and top-k of one direction, and their peers on a sample."""
    config = MineConfig(embeddings=directory, captions="all")
    store, pool = opened(directory, config, direction, "train")
    queries, side = (store.image, store.text) if direction == "i2t" else (store.text, store.image)
    count = len(pool.queries)
    tasks = [Task(directory, config, direction, "train", chunk, folder) for chunk in range(-(-count // CHUNK))]
    ours = timed(lambda: [mine_chunk(task) for task in tasks])
    gallery = side[pool.gallery].astype(np.float32)
    asked = queries[pool.queries[:SAMPLE]].astype(np.float32)
    naive = timed(lambda: naive_loop(asked, gallery)) * count / len(asked)

    top = MineConfig(embeddings=directory, captions="all", strategy="top-k", hard_negatives=50)
    sample = folder / f"search-{direction}"
    searches = list(planned_searches(pool[slice(0, SAMPLE)], top, searched_width(top, pool), sample))
    top_k = timed(lambda: [run_search(SearchTask(directory, top, direction, "train", s)) for s in searches])
    width = searches[0].width

    def flat() -> None:
        index = faiss.IndexFlatIP(DIMENSIONS)
        index.add(gallery)
        index.search(asked, width)  # type: ignore[call-arg]

    peer = timed(flat)
    return {
        "queries": count,
        "gallery": len(gallery),
        "random_hard_seconds": round(ours, 2),
        "naive_seconds_scaled": round(naive, 2),
        "times_naive": round(naive / ours, 1),
        f"top_{width}_of_{SAMPLE}_seconds": round(top_k, 2),
        "faiss_flat_seconds": round(peer, 2),
        "times_faiss_flat": round(peer / top_k, 2),
    }


def naive_loop(queries: np.ndarray, gallery: np.ndarray) -> None:
    """What one writes first: draw with numpy's choice, sort the cosines, keep 50."""
    generator = np.random.RandomState(0)
    for query in queries:
        drawn = generator.choice(len(gallery), 200, replace=False)
        cosine = gallery[drawn] @ query
        drawn[np.argsort(-cosine)[:50]]


def million(directory: Path, folder: Path) -> float:
    """Seconds of top-k for 10,000 queries in the large gallery: the validation captions ask the training images."""
    config = MineConfig(embeddings=directory, strategy="top-k")
    _, pool = opened(directory, config, "t2i", "train")
    part = pool[slice(0, 10_000)]
    started = time.perf_counter()
    for search in planned_searches(part, config, searched_width(config, pool), folder / "search-million"):
        run_search(SearchTask(directory, config, "t2i", "train", search))
    return time.perf_counter() - started


def timed(function: Callable[[], object]) -> float:
    """Seconds of CPU time."""
    started = time.process_time()
    function()
    return time.process_time() - started


def peak_mib() -> float:
    """The largest resident size so far, with what is mapped from files."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
