"""The embedding stage on a cluster that loses a node and then its driver: what is encoded twice, and is it the same?

    python benchmarks/cluster_loss.py --images 20000 --folder /data/loss

Three simulated nodes of one CPU. First an undisturbed run; then one that loses a node after a quarter of its shards and
whose driver is killed (SIGKILL) after a half, and the same command again to the end. Prints one JSON line: the store's
fingerprint of both, and the share of items whose encoding was begun twice. The folder keeps the drawn scenes.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from xmrank.config import EmbedConfig, ScenesConfig
from xmrank.embed import ray as ray_stage
from xmrank.embed.shards import Shard
from xmrank.embed.stage import embed
from xmrank.runtime.directory import read_manifest

NODES = 3


def logged(log: str) -> type:
    """The encoders' class, which also writes down the shards that it begins; made here, so it travels by value."""

    class Logged:
        def __init__(self, *arguments: Any) -> None:
            from xmrank.embed.ray import ShardEncoder

            self.encoder = ShardEncoder(*arguments)

        def __call__(self, row: dict[str, Any]) -> Any:
            if not Shard(**row).report_path(self.encoder.work).exists():
                with Path(log).open("a") as file:
                    file.write(f"{row['kind']}-{row['number']} {row['stop'] - row['start']}\n")
            return self.encoder(row)

    return Logged


def drive(config: EmbedConfig, log: Path) -> None:
    """The job, in this process."""
    ray_stage.ShardEncoder = logged(str(log))  # type: ignore[misc, assignment]
    embed(config)


def begun(log: Path) -> list[tuple[str, int]]:
    """Every shard that was begun, and its items."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(name, int(items)) for name, items in map(str.split, lines)]


class Job:
    """The job in a process of its own, on a new cluster."""

    def __init__(self, folder: Path, images: int, name: str) -> None:
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 200 << 20}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        more = range(NODES - 1)
        self.nodes = [self.cluster.add_node(num_cpus=1, object_store_memory=200 << 20) for _ in more]
        self.log = folder / f"{name}.log"
        command = [sys.executable, __file__, "--folder", folder, "--images", str(images), "--drive", name]
        self.process = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": self.cluster.address})

    def wait_for(self, shards: int) -> None:
        """Until so many shards have been begun."""
        while len(begun(self.log)) < shards and self.process.poll() is None:
            time.sleep(0.1)
        assert self.process.poll() is None, f"the job ended before {shards} shards were begun"

    def finish(self) -> None:
        """Wait for the end."""
        assert self.process.wait() == 0
        self.cluster.shutdown()

    def kill(self) -> None:
        """Kill the driver, and take the cluster down."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.cluster.shutdown()


def settings(folder: Path, images: int, name: str) -> EmbedConfig:
    """The scenes and the bundled encoder; both runs read the same drawn scenes."""
    held = images // 20
    scenes = ScenesConfig(train=images - 2 * held, val=held, test=held)
    return replace(EmbedConfig(), output=folder / name, scenes=scenes, workers=NODES)


def disturbed(folder: Path, images: int, shards: int) -> None:
    """A run that loses a node, then its driver; then the same again, to the end."""
    job = Job(folder, images, "disturbed")
    job.wait_for(shards // 4)
    job.cluster.remove_node(job.nodes[0], allow_graceful=False)
    print(f"a node is gone after {len(begun(job.log))} of {shards} shards", file=sys.stderr)
    job.wait_for(shards // 2)
    job.kill()
    print(f"the driver is gone after {len(begun(job.log))} of {shards} shards", file=sys.stderr)
    Job(folder, images, "disturbed").finish()


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder.resolve()
    os.environ["XMRANK_HOME"] = str(folder)  # where the scenes are drawn
    if given.drive:
        drive(settings(folder, given.images, given.drive), folder / f"{given.drive}.log")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("undisturbed", "disturbed"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / f"{name}.log").unlink(missing_ok=True)
    started = time.monotonic()
    Job(folder, given.images, "undisturbed").finish()
    seconds = time.monotonic() - started
    first = begun(folder / "undisturbed.log")
    disturbed(folder, given.images, len(first))
    second = begun(folder / "disturbed.log")
    items = sum(count for _, count in first)
    prints = [read_manifest(folder / name, "embed").fingerprint for name in ("undisturbed", "disturbed")]
    twice = sum(count for _, count in second) - items
    found = {"items": items, "shards": len(first), "equal": prints[0] == prints[1], "fingerprint": prints[1]}
    print(json.dumps(found | {"begun_twice": twice, "share": twice / items, "undisturbed_seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
