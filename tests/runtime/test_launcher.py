"""The launcher of Ray Train: how many processes start, and what each of them is told."""

import errno
import json
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from xmrank.runtime import launcher
from xmrank.runtime.errors import find_cause
from xmrank.runtime.launcher import Worker, count_workers, launch_workers


@pytest.mark.parametrize(
    ("available", "tasks", "group_size", "expected"),
    [
        (8, None, 1, 8),
        (8, 3, 1, 3),  # no more processes than tasks
        (8, 3, 2, 6),  # three groups of two
        (5, 9, 2, 4),  # whole groups only
        (1, 9, 2, 2),  # at least one group, even where fewer are available
        (4, 0, 1, 1),
    ],
)
def test_workers_come_in_whole_groups_and_no_more_than_have_a_task(available, tasks, group_size, expected):
    assert count_workers(available, tasks, group_size) == expected


def test_the_pool_is_sized_for_the_workers_that_start(tmp_path, monkeypatch):
    made = {}

    class Trainer:
        def __init__(self, loop, **settings):
            made.update(settings)

        def fit(self):
            made["fitted"] = True

    monkeypatch.setattr(launcher, "InterruptibleTrainer", Trainer)
    monkeypatch.setattr(launcher, "connect", lambda: None)
    monkeypatch.setattr(launcher, "pool_size", lambda requested: (requested or 4, 0.5, 1))
    count = launch_workers(print, "payload", name="toy", scratch=tmp_path, workers=0, tasks=2)
    assert count == made["scaling_config"].num_workers == 2
    assert made["scaling_config"].use_gpu
    assert made["torch_config"].backend == "nccl"
    assert made["run_config"].name == "toy"
    assert made["run_config"].failure_config.max_failures == launcher.RESTARTS
    assert made["fitted"]


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
    assert launch_workers(make_note_worker(), tmp_path, name="toy", scratch=tmp_path / "ray", workers=2) == 2
    for rank in (0, 1):
        known = json.loads((tmp_path / f"{rank}.json").read_text())
        assert known == {"rank": rank, "world_size": 2, "device": "cpu", "total": 1.0 + 2.0, "threads": 1}


def make_full_disk():
    """A function that notes each call, and finds the disk full."""

    def fill_disk(folder: Path, worker: Worker) -> None:
        (folder / f"{worker.rank}-{time.time_ns()}").touch()
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/state")

    return fill_disk


def test_a_full_disk_ends_a_run_at_once(ray_cluster, tmp_path):
    (tmp_path / "calls").mkdir()
    with pytest.raises(Exception, match="No space left on device") as caught:
        launch_workers(make_full_disk(), tmp_path / "calls", name="full", scratch=tmp_path / "ray", workers=1)
    cause = find_cause(caught.value)
    assert isinstance(cause, OSError) and (cause.errno, cause.filename) == (errno.ENOSPC, "/runs/state")
    assert len(list((tmp_path / "calls").iterdir())) == 1
