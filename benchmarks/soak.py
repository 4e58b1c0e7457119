"""Embed, mine and train in a loop, in one process on one cluster: do memory, files or processes grow?

    python benchmarks/soak.py --minutes 60 --folder /data/soak

Each round makes a small run anew and removes it. After each, the process, Ray's processes, and the files of both are
measured, as a line of ``rounds.jsonl`` in the folder. In the end, prints one JSON line: each figure's median over the
second tenth of the rounds and over the last tenth. The first tenth warms up.
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import ray

import psutil  # isort: skip  (Ray brings it along, where it is not installed)
from xmrank.config import EmbedConfig, MineConfig, TrainConfig
from xmrank.datasets.reader_settings import ScenesConfig, ScenesSettings
from xmrank.embed.stage import embed
from xmrank.mine.stage import mine
from xmrank.rankers import ContextAwareParameters
from xmrank.runtime.cluster import connect
from xmrank.runtime.log_levels import start_logging
from xmrank.train.stage import train

MEGABYTE = 1 << 20
SYSTEM = ("raylet", "gcs_server", "log_monitor", "monitor", "dashboard", "agent")
"""Parts of the command lines of Ray's own processes."""


def run_round(root: Path) -> None:
    """A small run: a few shards, lists, and rankers that are trained in both directions."""
    store, lists = root / "embeddings", root / "lists"
    scenes = ScenesConfig(train=48, val=16, test=16)
    embed(EmbedConfig(output=store, dataset=ScenesSettings(scenes=scenes), shard_size=16, workers=1))
    mine(MineConfig(embeddings=store, output=lists, random_candidates=12, hard_negatives=6))
    ranker = ContextAwareParameters(width=8, layers=1, heads=2, feed_forward=8, dropout=0.1)
    train(
        TrainConfig(
            embeddings=store,
            lists=lists,
            output=root / "rankers",
            losses=("listnet", "lambdarank"),
            seeds=(0,),
            ranker=ranker,
            epochs=3,
            batch_size=16,
            workers=1,
        )
    )


def measure(home: Path) -> dict[str, float]:
    """Memory in MB, and numbers of processes, open files, threads and files on disk."""
    gc.collect()
    driver = psutil.Process()
    children = driver.children(recursive=True)
    system = [child for child in children if is_system(child)]
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    files = [path for path in session.rglob("*") if path.is_file()]
    return {
        "driver_mb": driver.memory_info().rss / MEGABYTE,
        "driver_open_files": driver.num_fds(),
        "driver_threads": driver.num_threads(),
        "processes": len(children),
        "ray_system_mb": sum_memory(system),
        "ray_workers_mb": sum_memory(child for child in children if child not in system),
        "session_files": len(files),
        "session_mb": sum(path.stat().st_size for path in files) / MEGABYTE,
        "home_files": sum(path.is_file() for path in home.rglob("*")),
        "shared_memory_mb": shutil.disk_usage("/dev/shm").used / MEGABYTE,  # noqa: S108
    }


def is_system(process: psutil.Process) -> bool:
    """Whether it is one of Ray's own, not a worker."""
    try:
        return any(part in " ".join(process.cmdline()[:3]) for part in SYSTEM)
    except psutil.Error:
        return False


def sum_memory(processes: Any) -> float:
    """The memory of processes that no other process shares, in MB; one that has just ended has none."""
    total = 0.0
    for process in processes:
        try:
            total += process.memory_full_info().uss / MEGABYTE
        except psutil.Error:
            continue
    return total


def summarise(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Each figure's medians over the second tenth and over the last tenth of the rounds."""
    tenth = max(1, len(rows) // 10)
    early, late = rows[tenth : 2 * tenth] or rows, rows[-tenth:]
    return {
        name: [round(statistics.median(row[name] for row in part), 1) for part in (early, late)] for name in rows[0]
    }


def main() -> None:
    """Run rounds until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    given = parser.parse_args()
    folder = given.folder.resolve()
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {"XMRANK_HOME": str(home), "XMRANK_CACHE": str(home / "cache")}
    start_logging("warning")
    connect()
    rows: list[dict[str, float]] = []
    end = time.monotonic() + 60 * given.minutes
    with (folder / "rounds.jsonl").open("w") as log:
        while time.monotonic() < end:
            run_round(home / "run")
            shutil.rmtree(home / "run")
            rows.append(measure(home))
            log.write(json.dumps(rows[-1]) + "\n")
            log.flush()
    print(json.dumps({"rounds": len(rows), "minutes": given.minutes, **summarise(rows)}))


if __name__ == "__main__":
    main()
