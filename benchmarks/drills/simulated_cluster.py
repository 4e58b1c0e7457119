"""A Ray cluster of three nodes on this machine, whose nodes and processes can be killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import psutil
from ray._private import services
from ray.cluster_utils import Cluster

WORKERS = 2
"""Nodes of one CPU each, beside the head, which has none and on which the drivers run."""
STORE = 150 << 20
"""Bytes of a node's object store."""
SMALLEST_STORE = 80 << 20
"""The smallest that Ray starts with."""
START_S = 300.0
"""How long a node may take to start."""
TRIES = 3
"""How often the start of a cluster is tried."""
WORK = ("Train", "Map", "evaluate_method", "time_depths", "make_run", "try_point", "ImplicitFunc", "_chunk", "_search")
"""Parts of the names of Ray's processes that do a stage's work."""

FILLER = """
import sys, time
import numpy as np, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

@ray.remote(num_cpus=0)
class Filler:
    def fill(self, count):
        references = [ray.put(np.ones(4 << 20, np.uint8)) for _ in range(count)]
        # Arrays that are read from the store stay in it.
        self.kept = ray.get(references), references

ray.init(logging_level="ERROR", log_to_driver=False)
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
fillers = [Filler.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes]
ray.get([filler.fill.remote(int(sys.argv[1])) for filler in fillers])
print("full", flush=True)
time.sleep(3600)
"""
"""Fills the object stores of all nodes with blocks of 4 MiB that cannot leave it."""


class SimulatedCluster:
    """Three nodes. Processes of a node are killed without notice, as when a machine fails."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None
        self.store = 0

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        assert self.cluster
        return str(self.cluster.address)

    def repair(self, store: int = STORE) -> None:
        """Start what is missing of the three nodes; all of them where the object stores have another size."""
        if self.cluster and self.store != store:
            self.stop()
        self.store = store
        for _ in range(TRIES):
            try:
                self.start_missing()
                return
            except Exception as error:  # Ray raises no type of its own when a busy machine is too slow for it
                print(f"the cluster starts again: {error}", file=sys.stderr)
                self.stop()
        raise SystemExit("no cluster could be started")

    def start_missing(self) -> None:
        """Start the head and nodes that there are not."""
        if not self.cluster:
            head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": self.store}
            self.cluster = Cluster()
            with patient_starts():
                self.cluster.add_node(wait=False, **head)
        while len(self.cluster.worker_nodes) < WORKERS:
            self.add_node()

    def add_node(self) -> None:
        """Start a node of one CPU."""
        assert self.cluster
        with patient_starts():
            self.cluster.add_node(wait=False, num_cpus=1, object_store_memory=self.store)

    def lose_node(self) -> None:
        """Kill the node that does the most work."""
        assert self.cluster
        node = max(self.cluster.worker_nodes, key=lambda node: len(busy_processes(raylet_of(node))))
        self.cluster.remove_node(node, allow_graceful=False)

    def busy(self) -> list[psutil.Process]:
        """Processes that work for a stage, on all nodes."""
        assert self.cluster
        return [process for node in self.cluster.worker_nodes for process in busy_processes(raylet_of(node))]

    def kill_worker(self) -> str:
        """Kill a process that works for a stage; returns its name.

        Raises:
            RuntimeError: there was none for ten seconds.
        """
        for _ in range(200):
            for process in self.busy():
                try:
                    name = process.cmdline()[0].split()[0]
                    process.send_signal(signal.SIGKILL)
                except (psutil.NoSuchProcess, IndexError):
                    continue
                return name
            time.sleep(0.05)
        raise RuntimeError("no worker process")

    def fill_stores(self) -> subprocess.Popen:
        """Fill the object stores; they stay full until the process that is returned is killed."""
        blocks = int(0.9 * self.store) // (4 << 20)
        environment = os.environ | {"RAY_ADDRESS": self.address}
        command = [sys.executable, "-c", FILLER, str(blocks)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        if process.stdout.readline().strip() != "full":
            raise RuntimeError("the object stores could not be filled")
        return process

    def stop(self) -> None:
        """Kill the head and all nodes."""
        if self.cluster:
            # A node that is removed with grace waits half a minute for its work.
            for node in list(self.cluster.worker_nodes):
                self.cluster.remove_node(node, allow_graceful=False)
            if self.cluster.head_node:
                self.cluster.remove_node(self.cluster.head_node, allow_graceful=False)
            self.cluster.shutdown()
            self.cluster = None


@contextlib.contextmanager
def patient_starts() -> Iterator[None]:
    """Nodes may take minutes to start: Ray gives them half a minute, which a busy machine exceeds."""
    get_node = services.get_node

    def get_patiently(*arguments: Any) -> Any:
        end = time.monotonic() + START_S
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    with mock.patch.object(services, "get_node", get_patiently):
        yield


def raylet_of(node: object) -> psutil.Process | None:
    """The process of a node whose children are Ray's workers."""
    processes = getattr(node, "all_processes", {}).get("raylet")
    try:
        return psutil.Process(processes[0].process.pid) if processes else None
    except psutil.NoSuchProcess:
        return None


def busy_processes(raylet: psutil.Process | None) -> list[psutil.Process]:
    """The workers below a raylet that do a stage's work."""
    found = []
    for process in raylet.children() if raylet else []:
        try:
            title = process.cmdline()[0]
        except (psutil.NoSuchProcess, IndexError):
            continue
        if title.startswith("ray::") and any(part in title for part in WORK):
            found.append(process)
    return found
