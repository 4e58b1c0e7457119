"""A cluster that loses a node, and then the driver: what has been encoded is not encoded again."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from embedding_samples import scattered
from ray.cluster_utils import Cluster

from xmrank.embedding.embed import embed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes of one CPU; the driver's is the head."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    nodes = [made.add_node(num_cpus=1, object_store_memory=100 << 20, wait=False) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made, nodes
    made.shutdown()


def start(folder, seconds):
    arguments = [folder / "store", folder / "data", folder / "log", str(seconds)]
    with (folder / "said").open("a") as said:
        command = [sys.executable, HERE / "cluster_driver.py", *arguments]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=said, stderr=said)


def lines(folder):
    return (folder / "log").read_text().splitlines() if (folder / "log").exists() else []


def wait_for_shards(job, folder, count):
    """Until so many shards have been begun."""
    end = time.monotonic() + 240
    while len(lines(folder)) < count and time.monotonic() < end:
        assert job.poll() is None, (folder / "said").read_text()
        time.sleep(0.05)
    assert len(lines(folder)) >= count, (folder / "said").read_text()


@pytest.mark.ray
def test_a_lost_node_and_a_killed_driver_cost_unfinished_shards_only(tmp_path, encoded, cluster):
    made, nodes = cluster
    undisturbed = embed(scattered(tmp_path / "undisturbed", tmp_path / "data"))
    everything = len(encoded)

    job = start(tmp_path, seconds=0.5)
    try:
        wait_for_shards(job, tmp_path, count=4)
        made.remove_node(nodes[0], allow_graceful=False)
        wait_for_shards(job, tmp_path, count=everything // 2)
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert not (tmp_path / "store" / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "work").glob("[it]*.*")}
    begun = lines(tmp_path)
    assert len(begun) < everything, "ended before it could be killed"

    job = start(tmp_path, seconds=0)
    assert job.wait(timeout=240) == 0, (tmp_path / "said").read_text()
    times = Counter(lines(tmp_path))
    assert set(times) == set(encoded)
    # At most the shard that each of three workers was on when its node went, and again when the driver did.
    assert sum(times.values()) - everything <= 6
    done = {path.with_suffix("").name for path in finished if path.suffix == ".json"}
    assert done and done.isdisjoint(lines(tmp_path)[len(begun) :])
    again = embed(scattered(tmp_path / "store", tmp_path / "data"))
    assert again.fingerprint == undisturbed.fingerprint
