"""Searches without a cluster: points are tried in this process, one after another."""

import contextlib
from types import SimpleNamespace

import pytest

from xmrank.tune import ray as ray_stage


class InProcessTuner:
    """Ray Tune with one trial at a time, in this process.

    Attributes:
        tried: the points, in order.
        reported: what they reported, in order.
    """

    def __init__(self):
        self.tried, self.reported = [], []
        self.scheduler = self.trial = self.watcher = None

    def run(self, job, batch, progress, *, space=None, samples=1, algorithm=None):
        """What ``run_tuner`` does on a cluster."""
        self.scheduler = ray_stage.make_scheduler(job, batch)
        self.watcher = ray_stage.SearchWatcher(job, batch.point_of, progress)
        names = space["name"]["grid_search"] if space else range(samples)
        for name in names:
            given = {"name": name} if space else algorithm.suggest(str(name))
            self.trial = SimpleNamespace(trial_id=str(name), config=given)
            if self.scheduler:
                self.scheduler.on_trial_add(None, self.trial)
            self.tried.append(batch.point_of(given))
            with contextlib.suppress(SystemExit):  # how Ray Tune ends a trial that the scheduler stops
                ray_stage.try_point(given, job, batch.point_of)
            if algorithm:
                algorithm.on_trial_complete(str(name), self.reported[-1])
            self.watcher.on_trial_complete(0, [], self.trial)

    def report(self, metrics):
        """What ``tune.report`` does in a trial."""
        self.reported.append(metrics)
        if self.scheduler and self.scheduler.on_trial_result(None, self.trial, metrics) == "STOP":
            raise SystemExit
        self.watcher.on_trial_result(iteration=0, trials=[], trial=self.trial, result=metrics)


@pytest.fixture
def tuner(monkeypatch):
    """Points are tried in this process."""
    made = InProcessTuner()
    monkeypatch.setattr(ray_stage, "run_tuner", made.run)
    monkeypatch.setattr(ray_stage.tune, "report", made.report)
    return made


@pytest.fixture
def here(in_process, tuner):
    """Points and trainings are tried in this process; the list names the points that were, in order."""
    return tuner.tried
