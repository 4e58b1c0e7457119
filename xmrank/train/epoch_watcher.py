"""Shows the progress of a training that runs in other processes."""

import contextlib
import threading
from collections.abc import Iterator

from xmrank.runtime.errors import DataError
from xmrank.runtime.object_stores import StorageError
from xmrank.runtime.progress import Progress
from xmrank.runtime.storage import seconds_between_looks
from xmrank.train.checkpoint_json import read_meta
from xmrank.train.training_work import TrainingWork
from xmrank.train.trials import STATE, Trial

POLL_S = 1.0
"""Seconds between two looks at the trials' files."""


@contextlib.contextmanager
def watch_epochs(work: TrainingWork) -> Iterator[None]:
    """Show the epochs done over all trials while the block runs; they are read from the trials' own files."""
    stop = threading.Event()
    # Epochs that earlier runs did count as done before, not as progress of this run.
    done = count_all_epochs(work)
    total = sum(work.config_of(trial).epochs for trial in work.trials)
    with Progress("train (epochs)", total, sum(done.values())) as progress:

        def look() -> None:
            # Of a store that is away, the training itself says so when it has waited too long.
            with contextlib.suppress(StorageError):
                now = count_all_epochs(work)
                running = [name for name, epochs in now.items() if epochs > done[name]]
                progress.advance(sum(now.values()) - sum(done.values()), note=", ".join(running[:4]))
                done.update(now)

        def watch() -> None:
            # Waits for the next look, or for the end of the block.
            while not stop.wait(seconds_between_looks(work.output, POLL_S)):
                look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            # What was done since the last look.
            look()


def count_all_epochs(work: TrainingWork) -> dict[str, int]:
    """Trial name → epochs done."""
    return {trial.name: count_epochs(trial, work) for trial in work.trials}


def count_epochs(trial: Trial, work: TrainingWork) -> int:
    """The epochs of a trial that are done."""
    if trial.is_done(work.output):
        return work.config_of(trial).epochs  # also of a trial that stopped early: nothing of it is left to do
    state = trial.directory(work.output) / STATE
    try:
        epochs = read_meta(state)["epochs"] if state.exists() else []
    # The trial may finish, and its state be removed, while it is read here. A damaged state is for the trial to report.
    except (OSError, DataError):
        return work.config_of(trial).epochs if trial.is_done(work.output) else 0
    return int(epochs[-1]["epoch"]) if epochs else 0
