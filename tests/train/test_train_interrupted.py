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

from xmrank.train.stage import train
from xmrank.train.trials import HISTORY, all_trials, pending_trials

from .toys import result

pytestmark = pytest.mark.ray
JOB = Path(__file__).parents[2] / "jobs/train.py"
FLAGS = (
    "--losses listnet lambdarank --seeds 0 1 --epochs 3 --batch-size 16 --workers 2 --ranker.width 8 --ranker.layers 1 "
    "--ranker.heads 2 --ranker.feed-forward 8 --ranker.dropout 0.1"
)
"""``pipeline.TRAINING`` on the command line."""


def wait_for_first_trial(output, alive=lambda: True, seconds=400):
    """Return as soon as one trial is done, or nothing is alive to finish one."""
    deadline = time.monotonic() + seconds
    while not any((output / "trials").glob(f"*/{HISTORY}")) and alive() and time.monotonic() < deadline:
        time.sleep(0.005)


def kill_a_worker(output, killed):
    """Kill one process that trains, in the middle of its work."""
    wait_for_first_trial(output)
    for process in psutil.Process().children(recursive=True):
        if any("RayTrainWorker" in word for word in process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)
            return


@pytest.mark.usefixtures("ray_cluster")
def test_another_number_of_workers_and_the_death_of_one_change_nothing(trained, tmp_path, track_at):
    track_at(tmp_path)
    output, killed = tmp_path / "rankers", []
    killer = threading.Thread(target=kill_a_worker, args=(output, killed))
    killer.start()
    manifest = train(replace(trained.config, output=output, workers=1))
    killer.join()
    assert len(killed) == 1
    assert manifest.outputs == trained.manifest.outputs
    assert manifest.fingerprint == trained.manifest.fingerprint


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


def test_a_killed_job_is_continued_to_the_same_result(trained, tmp_path, track_at):
    track_at(tmp_path)
    output = tmp_path / "rankers"
    flags = ["--embeddings", trained.config.embeddings, "--lists", trained.config.lists, "--output", output]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, JOB, *map(str, flags), *FLAGS.split()], stdout=log, stderr=log, start_new_session=True
        )
        wait_for_first_trial(output, lambda: job.poll() is None)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    left = pending_trials(all_trials(trained.config), output)
    assert 0 < len(left) < 8, (tmp_path / "log").read_text()
    begun = json.loads((output / "tracking.json").read_text())

    manifest = train(replace(trained.config, output=output))
    assert manifest.fingerprint == trained.manifest.fingerprint
    assert json.loads((output / "tracking.json").read_text()) == begun
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("xmrank").experiment_id])
    assert {run.info.run_id for run in runs} == set(begun.values())
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_job_in_one_line_and_its_runs_as_killed(trained, tmp_path, track_at, number, status, word):
    track_at(tmp_path)
    output = tmp_path / "rankers"
    flags = ["--embeddings", trained.config.embeddings, "--lists", trained.config.lists, "--output", output]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, JOB, *map(str, flags), *FLAGS.replace("--epochs 3", "--epochs 300").split()],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 400
        # Ray Train has begun: from here on Ray's own handlers of signals would answer.
        while not any(output.glob("work/ray/*/.*")) and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        started = psutil.Process(job.pid).children(recursive=True)
        job.send_signal(number)
        assert job.wait(120) == status, (tmp_path / "log").read_text()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-1] == f"train: {word}"
    assert not [line for line in lines if not line.startswith("train")]
    runs = json.loads((output / "tracking.json").read_text())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert {client.get_run(run).info.status for run in runs.values()} == {"KILLED"}
    _, left = psutil.wait_procs(started, timeout=30)
    assert not left
