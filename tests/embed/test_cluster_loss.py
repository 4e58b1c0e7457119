"""A cluster that loses a node, and then the driver: what has been encoded is not encoded again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from embedding_samples import configured, make_pictures
from ray.cluster_utils import Cluster

from xmrank.embed.stage import embed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IMAGES = 60
"""With their captions, shards enough to be half done."""


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes of one CPU; the driver's is the head."""
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20},
    )
    nodes = [made.add_node(num_cpus=1, object_store_memory=100 << 20, wait=False) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made, nodes
    made.shutdown()


def start(folder):
    """The job, with workers that rest half a second before each shard."""
    arguments = [folder, folder / "log", "0.5"]
    with (folder / "said").open("a") as said:
        command = [sys.executable, HERE / "cluster_driver.py", *arguments]
        return subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
            stdout=said,
            stderr=said,
        )


def lines(folder):
    return (folder / "log").read_text().splitlines() if (folder / "log").exists() else []


def wait_for_shards(job, folder, count):
    """Until so many shards have been begun."""
    end = time.monotonic() + 240
    while len(lines(folder)) < count and time.monotonic() < end:
        assert job.poll() is None, (folder / "said").read_text()
        time.sleep(0.05)
    assert len(lines(folder)) >= count, (folder / "said").read_text()


@pytest.mark.own_ray
def test_a_lost_node_and_a_killed_driver_cost_unfinished_shards_only(tmp_path, encoded, cluster):
    made, nodes = cluster
    make_pictures(tmp_path, images=IMAGES)
    undisturbed = embed(configured(tmp_path, output=tmp_path / "undisturbed"))
    everything = set(encoded)
    encoded.clear()

    job = start(tmp_path)
    try:
        wait_for_shards(job, tmp_path, count=6)
        made.remove_node(nodes[0], allow_graceful=False)
        wait_for_shards(job, tmp_path, count=len(everything) // 2)
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    time.sleep(2)  # until the workers have noticed
    begun, work = lines(tmp_path), tmp_path / "store" / "work"
    finished = {path.stem for path in work.glob("[it]*.json")}
    assert finished and not (tmp_path / "store" / "manifest.json").exists()

    manifest = embed(configured(tmp_path))  # here, without a cluster: on the cluster or not, the bytes are the same
    assert set(encoded).isdisjoint(named(finished)) and everything == set(encoded) | set(begun)
    # Lost: the shard that each of three workers was on when the driver went, and one when the node did.
    assert len(begun) + len(encoded) - len(everything) <= 4
    assert manifest.fingerprint == undisturbed.fingerprint


def named(stems):
    """image-000003 as image-3."""
    return {f"{kind}-{int(number)}" for kind, number in (stem.split("-") for stem in stems)}
