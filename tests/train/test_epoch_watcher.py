"""Progress that is read from the files of trials which other processes write and remove."""

import json
from types import SimpleNamespace

import pytest

from xmrank.train import epoch_watcher
from xmrank.train.epoch_watcher import count_epochs, watch_epochs
from xmrank.train.trials import HISTORY, RANKER, RANKER_JSON, STATE, Trial

from .test_resume import StoppedError, stop_after
from .toys import run_toy, settings

TRIAL = Trial("listnet", "i2t", 0)


@pytest.fixture
def work(tmp_path):
    """A training whose trial was stopped after two of three epochs."""
    with pytest.raises(StoppedError):
        run_toy(TRIAL.directory(tmp_path), settings(epochs=3), TRIAL, on_epoch=stop_after(2))
    return SimpleNamespace(output=tmp_path, trials=[TRIAL], config_of=lambda trial: settings(epochs=3))


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


def test_a_line_has_the_loss_and_the_figure_that_chooses_the_epoch(work, capsys):
    with watch_epochs(work):
        run_toy(TRIAL.directory(work.output), settings(epochs=3), TRIAL)
    before, line = capsys.readouterr().err.splitlines()
    assert before == "train (epochs): 2 of 3 done before"
    last = json.loads((TRIAL.directory(work.output) / HISTORY).read_text())["epochs"][-1]
    figures = f"loss {last['train_loss']:.4g}, validation {last['validation_mean']:.4f}"
    assert line.startswith("train (epochs): 3/3, ") and line.endswith(f", listnet-i2t-seed0 epoch 3: {figures}")


def test_before_the_first_epoch_a_line_says_that_words_are_detected(tmp_path, capsys):
    config = SimpleNamespace(epochs=3, detect=SimpleNamespace(epochs=40))
    work = SimpleNamespace(output=tmp_path, trials=[TRIAL], config_of=lambda trial: config)
    with watch_epochs(work):
        pass
    assert capsys.readouterr().err == "train (epochs): 0/3, 0 s, word detection\n"
