"""The embedding stage on Ray compared with a plain loop: images per second, and memory.

    python benchmarks/embedding.py --images 10000                    # xmrank-tiny
    python benchmarks/embedding.py --images 1000 --model ViT-B-32    # untrained: only the compute matters

With --tokens, the stage without tokens is compared with the stage that keeps them. --annotations (Karpathy's JSON) and
--pictures name real images instead of scenes.

Both do the same work on the same cores: one process per core with one thread each, the same decoding, resizing, model,
batch size and shards written. The loop writes no reports and cannot be resumed. Prints one JSON line.
The steady state begins when every worker has finished a shard, and ends with the last shard. Start-up is reported
separately; with tokens, it includes the PCA. Besides wall-clock rates, the CPU time of all processes is measured,
including Ray's own. On a busy machine, trust the CPU time.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import KarpathySettings, ScenesConfig, ScenesSettings
from xmrank.datasets.readers import read_dataset
from xmrank.embed.decoding import decode_image
from xmrank.embed.encoder import load_encoder
from xmrank.embed.encoding import embed_dataset
from xmrank.runtime.files import write_array

BATCH = 64


@dataclass
class Usage:
    """What this process and its descendants used over time.

    Attributes:
        cpu: points in time, and the CPU seconds used until then, including processes that have ended.
        pss: the largest sum of proportional set sizes, MiB; a page shared by several processes counts once.
    """

    cpu: list[tuple[float, float]] = field(default_factory=list)
    pss: float = 0.0

    def between(self, first: float, last: float) -> float:
        """CPU seconds used between two points in time."""
        times, seconds = zip(*self.cpu, strict=True)
        return float(np.interp(last, times, seconds) - np.interp(first, times, seconds))


class Watched:
    """Samples this process and its descendants in a thread: periodically, and when the block begins and ends."""

    def __init__(self, period: float = 1.0) -> None:
        self.usage, self.period, self.over = Usage(), period, threading.Event()
        self.seconds: dict[str, float] = {}
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Usage:
        self.thread.start()
        return self.usage

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.thread.join()

    def watch(self) -> None:
        """Sample until the block ends. A process that ends before counts with its last sample."""
        self.sample()
        while not self.over.wait(self.period):
            self.sample()
        self.sample()

    def sample(self) -> None:
        """Take one sample."""
        self.seconds |= family_cpu()
        self.usage.cpu.append((time.time(), sum(self.seconds.values())))
        self.usage.pss = max(self.usage.pss, family_pss())


def stat(pid: str) -> list[str]:
    """The fields of /proc/PID/stat after the name (Linux)."""
    return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()


def family() -> list[str]:
    """The ids of this process and its descendants."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[path.name] = stat(path.name)[1]
    pids = [str(os.getpid())]
    for pid in pids:  # the list grows while it is read: children of children are reached, too
        pids += [child for child, parent in parents.items() if parent == pid]
    return pids


def family_cpu() -> dict[str, float]:
    """CPU seconds of each process, by id."""
    seconds = {}
    for pid in family():
        with contextlib.suppress(OSError):
            fields = stat(pid)
            seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def family_pss() -> float:
    """Memory of all processes together in MiB; a shared page counts once."""
    total = 0
    for pid in family():
        with contextlib.suppress(OSError):
            lines = Path("/proc", pid, "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def configured(arguments: argparse.Namespace, output: Path) -> EmbedConfig:
    """The configuration of the stage."""
    untrained: dict[str, Any] = {} if arguments.model == "xmrank-tiny" else {"pretrained": "none", "init_seed": 0}
    dataset: ScenesSettings | KarpathySettings
    if arguments.annotations:
        dataset = KarpathySettings(annotations=arguments.annotations, images=arguments.pictures)
    else:
        dataset = ScenesSettings(scenes=ScenesConfig(train=arguments.images, val=0, test=0, folder=arguments.data))
    return EmbedConfig(
        output=output,
        dataset=dataset,
        model=arguments.model,
        batch_size=BATCH,
        shard_size=arguments.shard,
        workers=arguments.workers,
        **untrained,
    )


def loop(config: EmbedConfig, addresses: list[tuple[int, list[str]]], folder: Path) -> list[list[float]]:
    """Encode the shards of one process; returns the time and the number of images at the end of every shard."""
    torch.set_num_threads(1)
    encoder = load_encoder(config.model, config.pretrained, init_seed=config.init_seed)
    finished = []
    for number, paths in addresses:
        parts = []
        for first in range(0, len(paths), BATCH):
            images = [decode_image(Path(path).read_bytes()) for path in paths[first : first + BATCH]]
            pixels = torch.stack([encoder.pixels.prepare(image) for image in images])
            parts.append(encoder.encode_images(pixels).numpy())
        write_array(folder / f"image-{number:06d}.npy", np.concatenate(parts).astype(np.float16))
        finished.append([time.time(), len(paths)])
    return finished


def bare(config: EmbedConfig, addresses: list[str], folder: Path) -> dict[str, float]:
    """Run the plain loop in as many processes as the stage has workers."""
    shards = [addresses[i : i + config.shard_size] for i in range(0, len(addresses), config.shard_size)]
    numbered = list(enumerate(shards))
    started = time.time()
    with Watched() as usage, multiprocessing.get_context("spawn").Pool(config.workers) as pool:
        parts = [(config, numbered[worker :: config.workers], folder) for worker in range(config.workers)]
        results = pool.starmap(loop, parts, chunksize=1)
    finished = list(itertools.chain.from_iterable(results))
    return figures(finished, config.workers, usage, started)


def staged(config: EmbedConfig, images: int) -> dict[str, float]:
    """Run the stage without captions. The times are those at which the reports of its images were written."""
    dataset = read_dataset(config.dataset)
    captions = dataset.captions.slice(0, 1)
    only_images = type(dataset)(dataset.name, dataset.root, dataset.images.slice(0, images), captions)
    finished: list[list[float]] = []
    # The stage deletes its reports at the end, so they are watched while it runs.
    started, over = time.time(), threading.Event()
    watcher = threading.Thread(target=watch, args=(config.output / "work", finished, over), daemon=True)
    watcher.start()
    with Watched() as usage:
        embed_dataset(config, None, only_images, config.output)
    over.set()
    watcher.join()
    return figures(finished, config.workers, usage, started)


def compare_tokens(config: EmbedConfig, images: int) -> dict[str, Any]:
    """Run the stage without tokens and with them, and compare the rates."""
    result: dict[str, Any] = {"vectors": staged(config, images)}
    result["tokens"] = staged(replace(config, tokens=True, output=config.output.with_name("tokens")), images)
    rate = result["tokens"]["images_per_second"] / result["vectors"]["images_per_second"]
    cpu = result["vectors"]["cpu_ms_per_image"] / result["tokens"]["cpu_ms_per_image"]
    return result | {"ratio": round(rate, 3), "cpu_ratio": round(cpu, 3), "load": round(os.getloadavg()[0], 1)}


def watch(work: Path, finished: list[list[float]], over: threading.Event) -> None:
    """Record when each report of images was written, and for how many images."""
    seen = set()
    while not over.wait(0.05):
        for path in set(work.glob("image-*.json")) - seen:
            try:
                finished.append([path.stat().st_mtime, json.loads(path.read_text())["items"]])
            except (OSError, ValueError):  # still being written: it is read in the next round
                continue
            seen.add(path)


def figures(finished: list[list[float]], workers: int, usage: Usage, started: float) -> dict[str, float]:
    """Rates, from the times at which shards were finished."""
    finished = sorted(finished)
    # After as many shards as workers, every worker has most likely finished its first one.
    first, last = finished[workers - 1][0], finished[-1][0]
    steady = sum(count for time_finished, count in finished if time_finished > first)
    return {
        "images_per_second": round(steady / max(last - first, 1e-9), 1),
        "steady_images": int(steady),
        "cpu_ms_per_image": round(1000 * usage.between(first, last) / max(steady, 1), 3),
        "start_up_seconds": round(finished[0][0] - started, 1),
        "cpu_seconds_in_all": round(usage.cpu[-1][1] - usage.cpu[0][1], 1),
        "peak_pss_mib": round(usage.pss),
    }


def main() -> None:
    """Run the loop and the stage, one after the other, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--model", default="xmrank-tiny")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--shard", type=int, default=512)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "xmrank-benchmark")
    parser.add_argument("--annotations", type=Path, help="Karpathy's JSON, with --pictures, instead of scenes")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--only", choices=("bare", "stage"))
    parser.add_argument("--tokens", action="store_true", help="compare the stage with itself, keeping tokens")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="xmrank-embedding-"))
    config = configured(arguments, folder / "store")
    dataset = read_dataset(config.dataset)
    addresses = [str(Path(dataset.root) / location) for location in dataset.images["location"].to_pylist()]
    result: dict[str, Any] = {"model": arguments.model, "images": arguments.images, "workers": arguments.workers}
    if arguments.tokens:
        print(json.dumps(result | compare_tokens(config, arguments.images)))
        shutil.rmtree(folder)
        return
    if arguments.only != "stage":
        result["bare"] = bare(config, addresses, folder)
    if arguments.only != "bare":
        result["stage"] = staged(config, arguments.images)
    if not arguments.only:
        rate = result["stage"]["images_per_second"] / result["bare"]["images_per_second"]
        cpu = result["bare"]["cpu_ms_per_image"] / result["stage"]["cpu_ms_per_image"]
        result |= {"ratio": round(rate, 3), "cpu_ratio": round(cpu, 3), "load": round(os.getloadavg()[0], 1)}
    shutil.rmtree(folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
