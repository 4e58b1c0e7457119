"""A ranker that two nodes train together: with unequal shares, and with a node that goes in the middle."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline import TRAINING, mine_small
from ray.cluster_utils import Cluster

from xmrank.train.stage import train
from xmrank.train.trials import STATE

from .toys import result

JOB = Path(__file__).parents[2] / "jobs/train.py"
FLAGS = (
    "--preset paper --losses lambdarank --directions i2t --seeds 0 --epochs 8 --batch-size 7 --ranker.width 8 "
    "--ranker.layers 1 --ranker.heads 2 --ranker.feed-forward 8 --ranker.dropout 0 --workers 0 --workers-per-trial 2 "
    "--worker-timeout 1"
)
"""300 lists in batches of 7: the processes have 4 and 3 lists, and 3 each of the last batch."""
FIGURES = 1e-3
"""Tolerance. 21 validation lists: a hit is 0.048."""


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one CPU; the driver's is the head."""
    # By default Ray gives its workers the least share of a busy machine.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    small = {"num_cpus": 1, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **small})
    made.lost = made.add_node(wait=False, **small)
    yield made
    made.shutdown()


@pytest.mark.own_ray
def test_processes_on_two_nodes_lose_one_and_end_in_the_figures_of_one_process(
    tiny_store, tmp_path, track_at, cluster, request
):
    track_at(tmp_path)
    store = tiny_store(tmp_path / "store", splits={"train": 300, "val": 21, "test": 20})
    lists = mine_small(store.directory, tmp_path / "lists")
    paths = ["--embeddings", store.directory, "--lists", lists.output, "--output", tmp_path / "nodes"]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, JOB, *map(str, paths), *FLAGS.split()],
            stdout=log, stderr=log, env=os.environ | {"RAY_ADDRESS": cluster.address},
        )  # fmt: skip
        try:
            while not any(tmp_path.glob(f"nodes/trials/*/{STATE}")) and job.poll() is None:
                time.sleep(0.01)
            cluster.remove_node(cluster.lost, allow_graceful=False)
            status = job.wait(400)
        finally:
            job.kill()
    text = (tmp_path / "log").read_text()
    assert status == 0 and "train: workers start again: " in text, text
    # Both on the node that is left.
    assert re.search(r"^train \(epochs\): 8/8, .*, 2 workers, 1 restart", text, re.MULTILINE), text

    request.getfixturevalue("in_process")
    ranker = replace(TRAINING.ranker, dropout=0.0)
    one = replace(TRAINING, losses=("lambdarank",), directions=("i2t",), seeds=(0,), epochs=8, batch_size=7)
    one = replace(one, ranker=ranker, workers=1, embeddings=store.directory, lists=lists.output)
    train(replace(one, output=tmp_path / "one"))
    alone, together = (result(tmp_path / run / "trials/lambdarank-i2t-seed0")[1]["epochs"] for run in ("one", "nodes"))
    assert len(alone) == 8
    for expected, epoch in zip(alone, together, strict=True):
        assert epoch == pytest.approx(expected, abs=FIGURES)
