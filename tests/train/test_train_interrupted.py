"""On a real cluster: neither the number of workers nor the death of one or of the whole job changes a result."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient
from pipeline import kill_train_workers
from ray.cluster_utils import Cluster

from xmrank.tracking.run_tree import read_run_ids
from xmrank.tracking.runs import find_run
from xmrank.train.stage import train
from xmrank.train.trials import HISTORY, all_trials, pending_trials

from .toys import result

pytestmark = pytest.mark.ray
JOB = Path(__file__).parents[2] / "jobs/train.py"
FLAGS = (
    "--preset paper --losses listnet lambdarank --seeds 0 1 --epochs 3 --batch-size 16 --workers 2 --ranker.width 8 "
    "--ranker.layers 1 --ranker.heads 2 --ranker.feed-forward 8 --ranker.dropout 0.1 --directions t2i"
)
"""``pipeline.TRAINING`` on the command line, of one direction: four of its eight rankers."""


def outputs_of_half(trained):
    """The manifest's outputs of the undisturbed rankers of one direction."""
    return {name: entry for name, entry in trained.manifest.outputs.items() if "-t2i-" in name}


def wait_for_first_trial(output, alive=lambda: True, seconds=400):
    """Return as soon as one trial is done, or nothing is alive to finish one."""
    deadline = time.monotonic() + seconds
    while not any((output / "trials").glob(f"*/{HISTORY}")) and alive() and time.monotonic() < deadline:
        time.sleep(0.005)


def kill_a_worker(output, killed):
    """Kill one process that trains, in the middle of its work."""
    wait_for_first_trial(output)
    killed += kill_train_workers(1)


@pytest.mark.usefixtures("ray_cluster")
def test_another_number_of_workers_and_the_death_of_one_change_nothing(trained, tmp_path, track_at):
    track_at(tmp_path)
    output, killed = tmp_path / "rankers", []
    killer = threading.Thread(target=kill_a_worker, args=(output, killed))
    killer.start()
    manifest = train(replace(trained.config, output=output, workers=1, directions=("t2i",)))
    killer.join()
    assert len(killed) == 1
    assert manifest.outputs == outputs_of_half(trained)


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_that_train_one_ranker_report_the_figures_of_one(trained, tmp_path, track_at, request):
    track_at(tmp_path)
    one_trial = {"losses": ("lambdarank",), "directions": ("i2t",), "seeds": (0,)}
    ranker = replace(trained.config.ranker, dropout=0.0)
    # 300 lists in batches of 7: the last one holds 6; 20 validation lists, so that a hit is a twentieth.
    config = replace(trained.config, **one_trial, ranker=ranker, batch_size=7)
    train(replace(config, output=tmp_path / "two", workers=2, workers_per_trial=2))
    request.getfixturevalue("in_process")
    train(replace(config, output=tmp_path / "one", workers=1))
    one, two = (result(tmp_path / size / "trials/lambdarank-i2t-seed0")[1] for size in ("one", "two"))
    for alone, together in zip(one["epochs"], two["epochs"], strict=True):
        assert together == pytest.approx(alone, abs=1e-3)


def start_job(trained, output, log):
    """The job as users start it, with a cluster of its own."""
    flags = ["--embeddings", trained.config.embeddings, "--lists", trained.config.lists, "--output", output]
    command = [sys.executable, JOB, *map(str, flags), *FLAGS.split()]
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def test_a_job_that_is_terminated_and_then_killed_is_continued_to_the_same_result(trained, tmp_path, track_at):
    track_at(tmp_path)
    output, log = tmp_path / "rankers", tmp_path / "log"

    # SIGTERM, once Ray Train has begun: from there on Ray's own handlers of signals would answer.
    with log.open("w") as file:
        job = start_job(trained, output, file)
        deadline = time.monotonic() + 400
        while not any(output.glob("work/ray/*/.*")) and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        started = psutil.Process(job.pid).children(recursive=True)
        job.terminate()
        assert job.wait(120) == 143, log.read_text()
    lines = log.read_text().splitlines()
    assert lines[-1] == "train: terminated"
    assert not [line for line in lines if not line.startswith("train")]
    planned = read_run_ids(output)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    # No trial had begun, so none has a run.
    killed = [run for run in (find_run(client, tmp_path, run) for run in planned.values()) if run]
    assert [run.info.status for run in killed] == ["KILLED"] and len(planned) == 5
    assert not psutil.wait_procs(started, timeout=30)[1]

    # SIGKILL, when some trials are done.
    with log.open("w") as file:
        job = start_job(trained, output, file)
        wait_for_first_trial(output, lambda: job.poll() is None)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    config = replace(trained.config, output=output, directions=("t2i",))
    left = pending_trials(all_trials(config), output)
    assert 0 < len(left) < 4, log.read_text()

    assert train(config).outputs == outputs_of_half(trained)
    assert read_run_ids(output) == planned
    runs = client.search_runs([client.get_experiment_by_name("xmrank").experiment_id])
    assert {run.info.run_id for run in runs} == {
        find_run(client, tmp_path, run).info.run_id for run in planned.values()
    }
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.fixture
def cluster():
    """Two nodes of one CPU; the driver's is the head."""
    small = {"num_cpus": 1, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **small})
    made.lost = made.add_node(wait=False, **small)
    yield made
    made.shutdown()


def test_a_training_that_loses_a_node_goes_on_with_the_others(trained, tmp_path, track_at, cluster):
    track_at(tmp_path)
    output = tmp_path / "rankers"
    flags = ["--embeddings", trained.config.embeddings, "--lists", trained.config.lists, "--output", output]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, JOB, *map(str, flags), *FLAGS.replace("--workers 2", "--workers 0").split()],
            stdout=log, stderr=log, env=os.environ | {"RAY_ADDRESS": cluster.address},
        )  # fmt: skip
        try:
            wait_for_first_trial(output, lambda: job.poll() is None)
            cluster.remove_node(cluster.lost, allow_graceful=False)
            status = job.wait(200)
        finally:
            job.kill()
    text = (tmp_path / "log").read_text()
    assert status == 0 and "train: workers start again: " in text, text
    assert json.loads((output / "manifest.json").read_text())["outputs"] == outputs_of_half(trained)
