"""Progress that is read from the files of trials which other processes write and remove."""

from types import SimpleNamespace

import pytest

from xmrank.train import epoch_watcher
from xmrank.train.epoch_watcher import count_epochs
from xmrank.train.trials import HISTORY, RANKER, RANKER_JSON, STATE, Trial

from .test_resume import StoppedError, stop_after
from .toys import run_toy, settings

TRIAL = Trial("listnet", "i2t", 0)


@pytest.fixture
def work(tmp_path):
    """A training whose trial was stopped after two of three epochs."""
    with pytest.raises(StoppedError):
        run_toy(TRIAL.directory(tmp_path), settings(epochs=3), TRIAL, on_epoch=stop_after(2))
    return SimpleNamespace(output=tmp_path, config_of=lambda trial: settings(epochs=3))


def test_epochs_are_those_of_the_saved_state(work):
    assert count_epochs(TRIAL, work) == 2


def test_a_trial_that_finishes_while_it_is_read_has_all_its_epochs(work, monkeypatch):
    read = epoch_watcher.read_meta

    def finish_first(path):
        for name in (RANKER, RANKER_JSON, HISTORY):
            (path.parent / name).write_bytes(b"")
        path.unlink()
        return read(path)

    monkeypatch.setattr(epoch_watcher, "read_meta", finish_first)
    assert count_epochs(TRIAL, work) == 3


def test_a_damaged_state_counts_no_epochs(work):
    (TRIAL.directory(work.output) / STATE).write_bytes(b"damaged")
    assert count_epochs(TRIAL, work) == 0
