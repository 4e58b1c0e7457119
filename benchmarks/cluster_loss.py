"""The embedding stage on a cluster that loses a node and then its driver: how much is encoded twice?

    python benchmarks/cluster_loss.py --images 20000 --folder /data/loss

Three simulated nodes with one CPU each. The first run is undisturbed. The second run loses a node after a quarter of
its shards, and its driver is killed (SIGKILL) after a half. Then the same command runs again to the end. Prints one
JSON line: whether the stores of both runs are equal, and the fraction of items whose encoding was started twice. The
generated scenes stay in the folder.
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

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import ScenesConfig, ScenesSettings
from xmrank.embed import ray as ray_stage
from xmrank.embed.shards import Shard
from xmrank.embed.stage import embed
from xmrank.runtime.manifest import read_manifest

NODES = 3


def make_logged_encoder(log: str) -> type:
    """An encoder class that also logs each shard it starts. Ray pickles a class defined in a function by value."""

    class LoggedEncoder:
        def __init__(self, *arguments: Any) -> None:
            from xmrank.embed.ray import ShardEncoder

            self.encoder = ShardEncoder(*arguments)

        def __call__(self, row: dict[str, Any]) -> Any:
            # A shard that has its report is done, and encoding it again does nothing.
            if not Shard(**row).report_path(self.encoder.work).exists():
                with Path(log).open("a") as file:
                    file.write(f"{row['kind']}-{row['number']} {row['stop'] - row['start']}\n")
            return self.encoder(row)

    return LoggedEncoder


def drive(config: EmbedConfig, log: Path) -> None:
    """Run the job in this process."""
    ray_stage.ShardEncoder = make_logged_encoder(str(log))  # type: ignore[misc, assignment]
    embed(config)


def read_log(log: Path) -> list[tuple[str, int]]:
    """Every shard that was started, and its number of items."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(name, int(items)) for name, items in map(str.split, lines)]


class Job:
    """The job in its own process, on a new cluster."""

    def __init__(self, folder: Path, images: int, name: str) -> None:
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 200 << 20}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        more = range(NODES - 1)
        self.nodes = [self.cluster.add_node(num_cpus=1, object_store_memory=200 << 20) for _ in more]
        self.log = folder / f"{name}.log"
        command = [sys.executable, __file__, "--folder", folder, "--images", str(images), "--drive", name]
        self.process = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": self.cluster.address})

    def wait_for(self, shards: int) -> None:
        """Wait until this many shards have been started."""
        while len(read_log(self.log)) < shards and self.process.poll() is None:
            time.sleep(0.1)
        assert self.process.poll() is None, f"the job ended before {shards} shards were started"

    def finish(self) -> None:
        """Wait until the job ends, and stop the cluster."""
        assert self.process.wait() == 0
        self.cluster.shutdown()

    def kill(self) -> None:
        """Kill the driver, and stop the cluster."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.cluster.shutdown()


def settings(folder: Path, images: int, name: str) -> EmbedConfig:
    """Generated scenes and the bundled encoder; both runs read the same scenes."""
    held = images // 20  # a twentieth for val, and as many for test
    scenes = ScenesConfig(train=images - 2 * held, val=held, test=held)
    return replace(EmbedConfig(), output=folder / name, dataset=ScenesSettings(scenes=scenes), workers=NODES)


def disturbed(folder: Path, images: int, shards: int) -> None:
    """A run that loses a node and then its driver, followed by the same command to the end."""
    job = Job(folder, images, "disturbed")
    job.wait_for(shards // 4)
    # Without notice, like a machine that fails.
    job.cluster.remove_node(job.nodes[0], allow_graceful=False)
    print(f"a node is gone after {len(read_log(job.log))} of {shards} shards", file=sys.stderr)
    job.wait_for(shards // 2)
    job.kill()
    print(f"the driver is gone after {len(read_log(job.log))} of {shards} shards", file=sys.stderr)
    Job(folder, images, "disturbed").finish()


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder.resolve()
    os.environ["XMRANK_HOME"] = str(folder)  # the scenes are generated there
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
    first = read_log(folder / "undisturbed.log")
    disturbed(folder, given.images, len(first))
    second = read_log(folder / "disturbed.log")
    items = sum(count for _, count in first)
    expected, fingerprint = (read_manifest(folder / name, "embed").fingerprint for name in ("undisturbed", "disturbed"))
    twice = sum(count for _, count in second) - items
    result = {
        "items": items,
        "shards": len(first),
        "equal": fingerprint == expected,
        "fingerprint": fingerprint,
        "started_twice": twice,
        "fraction": twice / items,
        "undisturbed_seconds": round(seconds, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
