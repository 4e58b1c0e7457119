"""The launcher of Ray Train: how many processes start, and what each of them is told."""

import errno
import itertools
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError

from xmrank.runtime import launcher
from xmrank.runtime.errors import DataError, find_cause
from xmrank.runtime.launcher import Worker, launch_workers


@pytest.fixture
def trainers(monkeypatch):
    """Replaces Ray Train and the cluster: each start of workers takes the next failure of the list, and the room."""
    made = SimpleNamespace(failures=[], settings=[], room=None, lost_nodes=0)

    class Trainer:
        def __init__(self, loop, **settings):
            made.settings.append(settings)

        def fit(self):
            if made.failures:
                raise made.failures.pop(0)

    def make_room(*arguments):
        made.room = arguments
        counts = itertools.chain([2], itertools.repeat(1))
        return SimpleNamespace(
            find_count=lambda: next(counts),
            count_lost_nodes=lambda: made.lost_nodes,
            resources={"CPU": 0.5, "GPU": 1},
        )

    monkeypatch.setattr(launcher, "LeanTrainer", Trainer)
    monkeypatch.setattr(launcher, "connect", lambda: None)
    monkeypatch.setattr(launcher, "WorkerRoom", make_room)
    return made


def launch(tmp_path, **settings):
    return launch_workers(print, "payload", name="toy", scratch=tmp_path, workers=0, timeout=5, tasks=2, **settings)


def test_the_pool_is_sized_for_the_workers_that_start(tmp_path, trainers):
    assert launch(tmp_path) == 2
    assert trainers.room == ("toy", 0, 2, 1, 5)
    [made] = trainers.settings
    assert made["scaling_config"].num_workers == 2
    assert made["scaling_config"].use_gpu
    assert made["torch_config"].backend == "nccl"
    assert made["run_config"].name == "toy"
    # What is tried again, and with how many workers, is decided here.
    failures = made["run_config"].failure_config
    assert (failures.max_failures, failures.controller_failure_limit, failures.max_preemption_failures) == (0, 0, 0)


def lost(reason="node gone"):
    return WorkerGroupError("a worker failed", {0: RuntimeError(reason)})


def test_workers_that_die_start_again_with_those_that_are_left(tmp_path, trainers, capsys):
    trainers.failures = [lost()]
    prepared = []
    assert launch(tmp_path, prepare=lambda: prepared.append(len(trainers.settings))) == 1
    assert [made["scaling_config"].num_workers for made in trainers.settings] == [2, 1]
    assert prepared == [0, 1]
    assert "toy: workers start again: " in capsys.readouterr().err


def test_workers_that_die_too_often_are_given_up(tmp_path, trainers):
    trainers.failures = [lost(str(number)) for number in range(launcher.RESTARTS + 2)]
    with pytest.raises(WorkerGroupError):
        launch(tmp_path)
    assert len(trainers.settings) == launcher.RESTARTS + 1


def test_a_lost_node_does_not_count(tmp_path, trainers):
    trainers.failures = [lost(str(number)) for number in range(launcher.RESTARTS + 2)]
    trainers.lost_nodes = 2
    assert launch(tmp_path) == 1
    assert len(trainers.settings) == launcher.RESTARTS + 3


def test_the_death_of_the_process_that_watches_the_workers_is_a_restart(tmp_path, trainers, capsys):
    trainers.failures = [RayActorError(error_msg="the controller is dead")]
    assert launch(tmp_path) == 1
    assert "toy: workers start again: RayActorError: the controller is dead" in capsys.readouterr().err


def test_what_would_fail_again_is_not_tried_again(tmp_path, trainers):
    trainers.failures = [WorkerGroupError("a worker failed", {1: DataError("lists.parquet: row 3")})]
    with pytest.raises(WorkerGroupError) as caught:
        launch(tmp_path)
    assert str(find_cause(caught.value)) == "lists.parquet: row 3" and len(trainers.settings) == 1


def make_note_worker():
    """A function of its own, which worker processes get by value: they cannot import the tests."""

    def note_worker(folder: Path, worker: Worker) -> None:
        total = torch.tensor([worker.rank + 1.0])
        dist.all_reduce(total)
        known = {"rank": worker.rank, "world_size": worker.world_size, "device": worker.device.type}
        known |= {"total": total.item(), "threads": torch.get_num_threads()}
        (folder / f"{worker.rank}.json").write_text(json.dumps(known))

    return note_worker


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_every_worker_knows_its_rank_and_can_talk_to_the_others(tmp_path):
    assert (
        launch_workers(make_note_worker(), tmp_path, name="toy", scratch=tmp_path / "ray", workers=2, timeout=60) == 2
    )
    for rank in (0, 1):
        known = json.loads((tmp_path / f"{rank}.json").read_text())
        assert known == {"rank": rank, "world_size": 2, "device": "cpu", "total": 1.0 + 2.0, "threads": 1}


def read_actors():
    """The actors of this process's cluster by process id; a title names the class and the method."""
    titles = {
        process.pid: "".join(process.cmdline()).strip()
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
    }
    return {pid: title[5:].partition(".")[0] for pid, title in titles.items() if title[:5] == "ray::" and ":" in title}


def test_nothing_is_started_that_no_training_here_needs(ray_cluster, tmp_path):
    before, seen = read_actors(), {}

    def look(_: object, worker: Worker) -> None:
        (tmp_path / "at-work").touch()
        while not (tmp_path / "seen").exists():
            time.sleep(0.05)

    def watch():
        while not (tmp_path / "at-work").exists():
            time.sleep(0.05)
        seen.update(read_actors())
        (tmp_path / "seen").touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    launch_workers(look, None, name="lean", scratch=tmp_path / "ray", workers=1, timeout=60)
    watcher.join()
    started = {name for pid, name in seen.items() if pid not in before} - {"IDLE"}
    assert started <= {"TrainController", "RayTrainWorker", "SynchronizationActor"}
    assert {"TrainController", "RayTrainWorker"} <= started


def make_full_disk():
    """A function that notes each call, and finds the disk full."""

    def fill_disk(folder: Path, worker: Worker) -> None:
        (folder / f"{worker.rank}-{time.time_ns()}").touch()
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/state")

    return fill_disk


def test_a_full_disk_ends_a_run_at_once(ray_cluster, tmp_path):
    (tmp_path / "calls").mkdir()
    with pytest.raises(Exception, match="No space left on device") as caught:
        launch_workers(
            make_full_disk(), tmp_path / "calls", name="full", scratch=tmp_path / "ray", workers=1, timeout=60
        )
    cause = find_cause(caught.value)
    assert isinstance(cause, OSError) and (cause.errno, cause.filename) == (errno.ENOSPC, "/runs/state")
    assert len(list((tmp_path / "calls").iterdir())) == 1
