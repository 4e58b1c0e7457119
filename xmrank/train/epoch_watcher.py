"""Shows the progress of a training that runs in other processes."""

import contextlib
from collections.abc import Iterator
from typing import Any

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_kept_json
from xmrank.runtime.progress import Progress
from xmrank.runtime.watching import look_repeatedly
from xmrank.train.checkpoint_json import read_meta
from xmrank.train.schedule import Epoch, describe_validation
from xmrank.train.training_work import TrainingWork
from xmrank.train.trials import HISTORY, STATE, Trial

SHOWN = 2
"""Trials whose figures are in a line."""


@contextlib.contextmanager
def watch_epochs(work: TrainingWork) -> Iterator[None]:
    """Show the epochs done over all trials while the block runs; they are read from the trials' own files."""
    # Epochs that earlier runs did count as done before, not as progress of this run.
    done = count_all_epochs(work)
    total = sum(work.config_of(trial).epochs for trial in work.trials)
    with Progress("train (epochs)", total, sum(done.values())) as progress:

        def look() -> None:
            now = count_all_epochs(work)
            moved = [trial for trial in work.trials if now[trial.name] > done[trial.name]]
            notes = [describe_last(trial, work) for trial in moved[:SHOWN]]
            # It comes before the first epoch of all.
            if not any(now.values()) and any(work.config_of(trial).detect.epochs for trial in work.trials):
                notes = ["word detection"]
            progress.advance(sum(now.values()) - sum(done.values()), note="; ".join(notes))
            done.update(now)

        with look_repeatedly(look, work.output):
            yield


def count_all_epochs(work: TrainingWork) -> dict[str, int]:
    """Trial name → epochs done."""
    return {trial.name: count_epochs(trial, work) for trial in work.trials}


def count_epochs(trial: Trial, work: TrainingWork) -> int:
    """The epochs of a trial that are done."""
    if trial.is_done(work.output):
        return work.config_of(trial).epochs  # also of a trial that stopped early: nothing of it is left to do
    epochs = read_epochs(trial, work)
    # Done by now, and its state gone?
    if not epochs and trial.is_done(work.output):
        return work.config_of(trial).epochs
    return int(epochs[-1]["epoch"]) if epochs else 0


def read_epochs(trial: Trial, work: TrainingWork) -> list[Epoch]:
    """The validations of a trial so far; empty where there are none, or where they cannot be read now."""
    directory = trial.directory(work.output)
    # The trial may finish, and its state be removed, while it is read here. A damaged state is for the trial to report.
    with contextlib.suppress(OSError, DataError):
        if (directory / HISTORY).exists():
            history: dict[str, Any] = read_kept_json(directory / HISTORY, dict)
            return list(history["epochs"])
        if (directory / STATE).exists():
            return list(read_meta(directory / STATE)["epochs"])
    return []


def describe_last(trial: Trial, work: TrainingWork) -> str:
    """A trial's name with its last epoch."""
    epochs = read_epochs(trial, work)
    return f"{trial.name} {describe_validation(epochs[-1])}" if epochs else trial.name
