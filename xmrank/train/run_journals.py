"""The journals of a training: every validation of a trial reaches its MLflow run, and every run gets its end."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xmrank.metrics import mlflow_name
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_kept_json
from xmrank.tracking.journal import PARENT, Journal
from xmrank.tracking.run_tree import RunTree
from xmrank.train.checkpoint_json import read_about, read_meta
from xmrank.train.schedule import Epoch
from xmrank.train.trials import HISTORY, STATE, Trial


def epoch_metrics_for_mlflow(epoch: Epoch) -> dict[str, float]:
    """The metrics of a validation under MLflow's names: ``train_hit@1`` is ``train/hit_at_1``."""
    metrics = {}
    for name, value in epoch.items():
        if name not in ("epoch", "step"):
            metrics[mlflow_name(name).replace("_", "/", 1)] = value
    return metrics


def step_for_mlflow(epoch: Epoch, *, by_step: bool) -> int:
    """Where a validation is on the x axis."""
    # Several validations of one epoch would lie on top of each other.
    return int(epoch["step"] if by_step else epoch["epoch"])


def add_end(trial: Trial, run: str, output: Path) -> None:
    """Add the files and the end of a finished trial to its journal."""
    best = read_about(trial.directory(output))["best_epoch"]
    # A ranker whose best epoch is 0 is the start that it was given, whatever its loss.
    tags = {"kept_start": "true"} if best == 0 else {}
    metrics = list_kept_metrics(read_epochs(trial.directory(output)), best)
    Journal(output, trial.name).add(run, metrics=metrics, tags=tags, artifacts=trial.output_files(output), failed=False)


def list_kept_metrics(epochs: Iterable[Epoch], best: float) -> dict[str, float]:
    """The figures of the epoch whose ranker is kept: ``kept/validation/mean`` beside the curve ``validation/mean``.

    MLflow's table shows the last value of a curve, by which other rankers would win than those that are kept.

    Args:
        epochs: the validations of a trial.
        best: the epoch that is kept.
    """
    kept = next((epoch for epoch in epochs if epoch["epoch"] == best), None)
    figures = epoch_metrics_for_mlflow(kept) if kept else {}
    return {f"kept/{name}": value for name, value in figures.items()} | {"kept/epoch": best}


def end_runs(runs: RunTree, trials: Iterable[Trial], output: Path, *, by_step: bool, failed: bool) -> None:
    """Complete the journals, and end the runs that no worker has ended.

    Args:
        runs: of the stage.
        trials: all of the stage.
        output: the stage's directory.
        by_step: whether steps, not epochs, are the x axis of the curves.
        failed: how the parent ends.
    """
    for trial in trials:
        done = trial.is_done(output)
        if trial.name not in runs.ids:
            continue
        run, journal = runs.ids[trial.name], Journal(output, trial.name)
        if journal.path.exists():
            fill_up(journal, run, read_epochs(trial.directory(output)), by_step=by_step)
        # A worker may have been killed after its work was done and before its run was ended.
        last = [record.get("status") for record in journal.records_of(run)][-1:]
        if done and last != ["FINISHED"]:
            add_end(trial, run, output)
        # A trial that no worker came to has no run.
        elif not done and last:
            journal.add(run, failed=True)
    if runs.owns_parent:
        runs.end_child(PARENT, failed=failed)


def fill_up(journal: Journal, run: str, epochs: Iterable[Epoch], *, by_step: bool) -> None:
    """Add the validations that a killed process had saved but not added; their costs are not known any more."""
    known = {record["step"] for record in journal.records_of(run) if "metrics" in record}
    for epoch in epochs:
        step = step_for_mlflow(epoch, by_step=by_step)
        if step not in known:
            journal.add(run, metrics=epoch_metrics_for_mlflow(epoch), step=step)


def read_epochs(directory: Path) -> list[Epoch]:
    """The validations of a trial in its folder: of its history, or of the state that it goes on from."""
    history, state = directory / HISTORY, directory / STATE
    meta: dict[str, Any] = {}
    if history.exists():
        meta = read_kept_json(history, dict)
    elif state.exists():
        try:
            meta = read_meta(state)
        except DataError:  # damaged: continuing the trial reports it
            meta = {}
    epochs = meta.get("epochs", [])
    if not isinstance(epochs, list) or not all(isinstance(epoch, dict) for epoch in epochs):
        raise DataError(f"{history}: damaged: expected a list of epochs")
    return list(epochs)
