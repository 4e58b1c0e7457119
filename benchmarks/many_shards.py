"""What the embedding stage costs beside its encoder, with up to 100,000 shards: time and memory of the driver.

    python benchmarks/many_shards.py --shards 1000 10000 100000 --folder /data/shards
    python benchmarks/many_shards.py --shards 1000 --folder /data/shards --s3    # output in moto's S3
    python benchmarks/many_shards.py --shards 100000 --folder /data/shards --no-ray    # one shard after the other

The stage runs as it is, on Ray with its pool of actors, but its encoder returns constants and no image is read. Half of
the shards are images, in one tar; half are captions. Each size runs in two processes: the first ends when all shards
are encoded, the second is the same command again. It finds the finished shards and assembles the store.

Prints one JSON line with, for each size: shards a second (from the first shard that is finished to the last), seconds
of each step, the driver's largest resident memory in both processes, its growth for each shard since the next smaller
size, and the sizes of plan and manifest. Memory and time of Ray's own processes are not included.
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from constant_encoder import IMAGE_BYTES, ConstantShardEncoder

from xmrank.config import EmbedConfig
from xmrank.datasets.dataset import CAPTIONS, IMAGES, Dataset
from xmrank.datasets.locations import in_tar
from xmrank.embed import encoding
from xmrank.embed import ray as ray_stage
from xmrank.embed.shards import Shard
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.paths import resolve

ITEMS = 8
FAREWELL = 3
"""Exit status of the process that ends before the store is assembled."""


def make_dataset(folder: Path, shards: int) -> Dataset:
    """As many images and captions as fill the shards; the images are in one tar, which is all holes."""
    count = ITEMS * (shards // 2)
    ids = [f"image-{row:09d}" for row in range(count)]
    with (folder / "images.tar").open("wb") as file:
        file.truncate(IMAGE_BYTES * count)
    places = [in_tar("images.tar", f"{row}.jpg", IMAGE_BYTES * row, IMAGE_BYTES) for row in range(count)]
    splits = ["test" if row % 20 == 0 else "train" for row in range(count)]
    images = pa.table([ids, places, splits, [[]] * count], schema=IMAGES)
    texts = [f"caption {row}" for row in range(count)]
    captions = pa.table([[f"caption-{row:09d}" for row in range(count)], ids, texts, splits], schema=CAPTIONS)
    return Dataset("many", folder, images, captions)


class Clock:
    """Seconds that functions took, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time_calls(self, owner: Any, name: str, label: str) -> None:
        """Replace a function by one that is timed."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.monotonic()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[label] = round(time.monotonic() - started, 2)

        setattr(owner, name, timed)

    def time_shards(self, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The function that yields finished shards, timed from the first to the last."""

        def timed(*arguments: Any, **named: Any) -> Iterator[Any]:
            first, count = 0.0, 0
            for result in function(*arguments, **named):
                first = first or time.monotonic()
                count += 1
                yield result
            self.seconds["shards_a_second"] = round((count - 1) / (time.monotonic() - first), 1)

        return timed


def encode_in_process(shards: list[Shard], settings: dict[str, Any], preparer: Any, work: Path, *_: Any) -> Any:
    """What `encode_shards` yields, without Ray: one shard after the other."""
    return map(ray_stage.ShardEncoder(settings, preparer, work), map(asdict, shards))


def drive(folder: Path, output: str, shards: int, assemble: bool, no_ray: bool) -> None:
    """Run the stage in this process; print its figures."""
    clock = Clock()
    dataset = make_dataset(folder, shards)
    before = peak_mib()
    ray_stage.ShardEncoder = ConstantShardEncoder  # type: ignore[misc]
    clock.time_calls(StageDirectory, "open", "open_directory")
    clock.time_calls(encoding, "make_plan", "plan")
    clock.time_calls(encoding, "find_earlier", "find_finished")
    clock.time_calls(encoding, "run_shards", "all_shards")
    clock.time_calls(encoding, "finish_store", "assemble_and_finish")
    clock.time_calls(encoding, "write_store", "of_it_arrays_and_tables")
    clock.time_calls(StageDirectory, "finish", "of_it_hashes_and_manifest")
    encoding.encode_shards = clock.time_shards(encode_in_process if no_ray else encoding.encode_shards)
    if not assemble:
        encoding.finish_store = lambda *_: None  # type: ignore[assignment, return-value]
    config = EmbedConfig(output=Path(output), shard_size=ITEMS, batch_size=ITEMS, workers=1)
    encoding.embed_dataset(config, None, dataset, resolve(config.output))
    figures = {"dataset_mib": round(before), "peak_mib": round(peak_mib()), **clock.seconds}
    print(json.dumps(figures), flush=True)


def peak_mib() -> float:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_size(folder: Path, output: str, shards: int, options: list[str]) -> dict[str, Any]:
    """Both processes of a size."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    figures: dict[str, Any] = {"shards": shards, "items": ITEMS * (shards // 2) * 2}
    for name, flag in (("encode", []), ("rerun", ["--assemble"])):
        command = [sys.executable, __file__, "--folder", str(folder), "--output", output, "--drive", str(shards)]
        done = subprocess.run([*command, *flag, *options], stdout=subprocess.PIPE, text=True, check=True)
        figures[name] = json.loads(done.stdout.splitlines()[-1])
    for name in ("plan.json", "manifest.json"):
        figures[f"{name}_bytes"] = len((resolve(output) / name).read_bytes())
    return figures


def add_growth(results: list[dict[str, Any]]) -> None:
    """Add the growth of the driver's memory for each shard, since the next smaller size; the tables' not counted."""
    for smaller, larger in itertools.pairwise(results):
        for name in ("encode", "rerun"):
            beyond = [size[name]["peak_mib"] - size[name]["dataset_mib"] for size in (smaller, larger)]
            kib = 1024 * (beyond[1] - beyond[0]) / (larger["shards"] - smaller["shards"])
            larger[name]["kib_a_shard"] = round(kib, 1)


def main() -> None:
    """Run every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--no-ray", action="store_true")
    for name in ("--output", "--drive"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--assemble", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.drive:
        drive(folder, given.output, int(given.drive), given.assemble, given.no_ray)
        return
    results, server = [], None
    if given.s3:
        from object_store import ObjectStore  # a module of the tests: put their folder on PYTHONPATH

        server = ObjectStore()
        os.environ.update(server.environment, XMRANK_CACHE=str(folder / "cache"))
    for shards in sorted(given.shards):
        output = f"{server.make_bucket()}/store" if server else str(folder / f"{shards}" / "store")
        requests = len(server.requests) if server else 0
        results.append(run_size(folder / f"{shards}", output, shards, ["--no-ray"] * given.no_ray))
        if server:
            results[-1]["requests"] = len(server.requests) - requests
    add_growth(results)
    print(json.dumps({"output": "s3" if server else "disk", "sizes": results}))


if __name__ == "__main__":
    main()
