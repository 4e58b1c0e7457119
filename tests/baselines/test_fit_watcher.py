"""The progress of fits, read from what they write."""

import time

import pytest

from xmrank.baselines.baseline_registry import list_fits
from xmrank.baselines.fit_watcher import watch_fits
from xmrank.baselines.fitting import HISTORY, FitLog, FittingJob
from xmrank.config import BaselinesConfig
from xmrank.runtime import progress, watching
from xmrank.tracking.run_tree import PlannedRun


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Two fits, of which nothing is done; a line comes at each look, and there are many."""
    monkeypatch.setattr(progress, "SHORTEST_PERIOD_S", 0.0)
    monkeypatch.setattr(watching, "PERIOD_S", 0.01)
    config = BaselinesConfig(baselines=("cca", "cmpm"), seeds=(0,))
    fits = list_fits(config)
    runs = {fit.name: PlannedRun(tmp_path, fit.name, f"run-{fit.name}", {}) for fit in fits}
    return FittingJob(config, tmp_path, fits, tmp_path / "failures", runs)


def wait_for(capsys, text):
    """The first line with a text."""
    lines = []
    deadline = time.monotonic() + 20
    while not [line for line in lines if text in line]:
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
        lines += capsys.readouterr().err.splitlines()
    return next(line for line in lines if text in line)


def finish(job, fit):
    """Write what a finished fit has last."""
    (job.directory_for(fit) / HISTORY).parent.mkdir(parents=True)
    (job.directory_for(fit) / HISTORY).write_text("{}")


def test_a_line_has_the_last_epoch_of_a_fit_and_then_the_fits_that_are_done(job, capsys):
    cca, cmpm = job.fits
    log = FitLog(job.runs[cmpm.name])
    with watch_fits(job):
        log.log_epoch({"epoch": 1.0, "train_loss": 2.0, "validation_mean": 0.25})
        log.log_epoch({"epoch": 2.0, "train_loss": 1.5, "validation_i2t_hit@1": 0.2, "validation_mean": 0.375})
        line = wait_for(capsys, "epoch 2")
        assert line.startswith("baselines (fits): 0/2, ")
        assert line.endswith("cmpm-seed0 epoch 2: loss 1.5, validation 0.3750")
        finish(job, cca)
        wait_for(capsys, "baselines (fits): 1/2, ")
        finish(job, cmpm)
        assert wait_for(capsys, "baselines (fits): 2/2, ").endswith("cmpm-seed0")
    capsys.readouterr()
    # Done before: counted, and nothing of it is shown as running.
    with watch_fits(job):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "baselines (fits): 2 of 2 done before",
        "baselines (fits): 2/2, 0 s",
    ]
