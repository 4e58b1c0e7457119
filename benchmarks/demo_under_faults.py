"""The demo while its surroundings fail: does it end with the figures of a quiet run?

    PYTHONPATH=.:tests python benchmarks/demo_under_faults.py --folder /data/faults
    PYTHONPATH=.:tests python benchmarks/demo_under_faults.py --folder /data/faults --cases nodes --every 60

- ``quiet``: on one machine, outputs in a folder.
- ``store``: outputs in an object store (an S3 server on loopback) that is away for 30 s in every stage.
- ``nodes``: on a simulated cluster of three nodes with one CPU each, beside a head without any. A random node is lost
  every minute, and a new one comes a while later, as spot instances do. All nodes share this machine's disk.

Prints one JSON line a case: seconds, how often the command had to be given, what was injected, and which stages have
the fingerprints of the quiet run. What the jobs print is in the folder, as ``CASE.log``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from object_store import ObjectStore
from ray.cluster_utils import Cluster

from xmrank.runtime.manifest import read_manifest
from xmrank.runtime.paths import resolve

ROOT = Path(__file__).parents[1]
STAGES = {"embeddings": "embed", "lists": "mine", "rankers": "train", "evaluation": "evaluate", "report": "report"}
"""Folder of an experiment → stage."""
NODES = 3
OBJECT_STORE_BYTES = 200 << 20
RUNS = 3
"""How often the command is given, at most."""
WRITES = 3
"""So many files of a stage are in the store when it goes away: the lock, the plan and one of its own."""
OUTAGE_S = 30.0
REPLACED_S = 15.0
"""After so long a lost node is replaced."""

Inject = Callable[[], None]
"""Called again and again while the job runs: injects a fault when it is time."""


def run_until_done(folder: Path, case: str, output: str, environment: dict[str, str], inject: Inject) -> int:
    """Give the same command until it succeeds, with faults; returns how often it was given."""
    command = [sys.executable, str(ROOT / "jobs/experiment.py"), "--preset", "demo", "--output", output]
    with (folder / f"{case}.log").open("a") as log:
        for count in range(1, RUNS + 1):
            job = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            while job.poll() is None:
                inject()
                time.sleep(0.1)
            if job.returncode == 0:
                return count
    raise SystemExit(f"{case}: the command failed {RUNS} times, see {folder / case}.log")


def environment_of(folder: Path, case: str) -> dict[str, str]:
    """A home and a cache of the case's own."""
    paths = {"XMRANK_HOME": folder / case, "XMRANK_CACHE": folder / case / "cache", "PYTHONPATH": ROOT}
    (folder / case).mkdir(parents=True, exist_ok=True)
    return os.environ | {name: str(path) for name, path in paths.items()}


def run_quiet(folder: Path, _given: argparse.Namespace) -> dict[str, Any]:
    """Nothing fails."""
    root = folder / "quiet/runs/demo"
    runs = run_until_done(folder, "quiet", str(root), environment_of(folder, "quiet"), lambda: None)
    return {"runs": runs, "fingerprints": read_fingerprints(root)}


def run_on_store(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The store is away for a while in every stage."""
    store, outages = ObjectStore(), dict[str, float]()
    os.environ.update(store.environment)
    root = f"{store.make_bucket()}/runs/demo"
    prefix = root.removeprefix("s3:/")

    def inject() -> None:
        for stage in STAGES.keys() - outages:
            writes = [line for line in list(store.requests) if line.startswith(f"PUT {prefix}/{stage}/")]
            if len(writes) >= WRITES:
                outages[stage] = given.outage
                store.stop()
                time.sleep(given.outage)
                store.start()

    runs = run_until_done(folder, "store", root, environment_of(folder, "store"), inject)
    result = {"runs": runs, "outages_s": outages, "fingerprints": read_fingerprints(resolve(root))}
    store.stop()
    return result


class ChangingNodes:
    """Three nodes, one of which is lost now and then, without notice, and replaced a while later.

    Attributes:
        lost: how many were lost.
    """

    def __init__(self, every: float, seed: int) -> None:
        self.every, self.chance, self.lost = every, np.random.default_rng(seed), 0
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add_node() for _ in range(NODES)]
        self.next_loss = time.monotonic() + every

    def add_node(self) -> Any:
        """A new node of one CPU; it need not be there yet."""
        return self.cluster.add_node(num_cpus=1, wait=False, object_store_memory=OBJECT_STORE_BYTES)

    def change(self) -> None:
        """Lose or replace a node, if it is time."""
        now = time.monotonic()
        if len(self.nodes) == NODES and now > self.next_loss:
            self.cluster.remove_node(self.nodes.pop(self.chance.integers(NODES)), allow_graceful=False)
            self.lost += 1
        if len(self.nodes) < NODES and now > self.next_loss + REPLACED_S:
            self.nodes.append(self.add_node())
            self.next_loss += self.every


def run_on_nodes(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A random node is lost every minute."""
    nodes = ChangingNodes(given.every, given.seed)
    root = folder / "nodes/runs/demo"
    environment = environment_of(folder, "nodes") | {"RAY_ADDRESS": nodes.cluster.address}
    runs = run_until_done(folder, "nodes", str(root), environment, nodes.change)
    nodes.cluster.shutdown()
    return {"runs": runs, "nodes_lost": nodes.lost, "fingerprints": read_fingerprints(root)}


def read_fingerprints(root: Path) -> dict[str, str]:
    """Stage → fingerprint of its output, and the table of the report."""
    prints = {folder: read_manifest(root / folder, stage).fingerprint for folder, stage in STAGES.items()}
    return prints | {"table": (root / "report/table.csv").read_text()}


def main() -> None:
    """Run the cases, and compare each with the quiet one."""
    cases = {"quiet": run_quiet, "store": run_on_store, "nodes": run_on_nodes}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--outage", type=float, default=OUTAGE_S, help="seconds that the store is away in each stage")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two losses of a node")
    parser.add_argument("--seed", type=int, default=0, help="of the nodes that are lost")
    given = parser.parse_args()
    folder = given.folder.resolve()
    for case in given.cases:
        start = time.monotonic()
        result = cases[case](folder, given)
        seconds, prints = round(time.monotonic() - start), result.pop("fingerprints")
        if case == "quiet":
            (folder / "quiet.json").write_text(json.dumps(prints))
        expected = json.loads((folder / "quiet.json").read_text())
        equal = {name: prints[name] == expected[name] for name in expected}
        print(json.dumps({"case": case, "seconds": seconds, **result, "equal": equal}), flush=True)


if __name__ == "__main__":
    main()
