"""A search whose points take no time: a target of formulas."""

import json
import os
import signal
from pathlib import Path

from xmrank.config import TuneConfig
from xmrank.runtime.errors import DataError
from xmrank.tune.points import SearchFolder
from xmrank.tune.search_job import SearchJob
from xmrank.tune.search_target import PointOutcome, SearchGroup, SearchTarget
from xmrank.tune.space import NumberRange


class NoRuns:
    """Stands for the MLflow runs."""

    ids = ()

    def branch_off(self, folder):
        return self

    def begin_child(self, *arguments, **settings):
        """Nothing, as the others."""

    log_metrics = log_history = end_child = end = is_open = begin_child


class ToyTarget(SearchTarget):
    """Five epochs, from a saved state as a ranker has one; x is best at 0.3, and the kind 1 is better than 0."""

    name, inputs, tags = "toys", {}, {}

    def __init__(self, **space):
        self.space = space or {"x": NumberRange(0.0, 1.0, False), "kind": [0, 1]}

    def describe_config(self):
        return {}

    def list_groups(self):
        return [SearchGroup("toy", {"toy": "toy"}, self.space)]

    def count_epochs(self, group):
        return 5

    def describe_run(self, point):
        return {}

    def run_point(self, point, folder, cache, report):
        end_point(point.settings.get("ends"), folder)
        values = self.list_reported(point, folder)
        for epoch in range(len(values) + 1, 6):
            values.append(epoch / 5 - abs(point.settings.get("x", 0.5) - 0.3) + point.settings.get("kind", 0) / 10)
            (folder / "state.json").write_text(json.dumps(values))
            report(epoch, {}, values[-1])
        return PointOutcome(max(values), len(values), len(values))

    def list_reported(self, point, folder):
        state = Path(folder) / "state.json"
        return json.loads(state.read_text()) if state.exists() else []

    def write_best(self, best, counts):
        return {}


def end_point(how, folder):
    """The ends that a point can come to; every start leaves a file."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("start*")))
    (folder / f"start{number}").touch()
    if how == "killed" or (how == "killed once" and number == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "diverges":
        raise DataError("the loss is infinite")
    if how == "has a bug":
        raise ValueError("shapes differ\nhere")
    if how == "disk is full":
        raise OSError(28, "No space left on device", "/runs/state")


def make_job(folder, target=None, **config):
    """A search in a folder."""
    config = TuneConfig(**{"workers": 1, "samples": 14, "grace": 1, **config})
    (folder / "points").mkdir(parents=True, exist_ok=True)
    return SearchJob(config, target or ToyTarget(), SearchFolder(folder / "points"), folder / "work", NoRuns())


def starts_of(job, settings):
    """How many processes have tried a point."""
    point = job.target.make_point(job.target.list_groups()[0], settings)
    return len(list(job.points.folder_of(point).glob("start*")))
