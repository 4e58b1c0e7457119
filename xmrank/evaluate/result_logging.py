"""The evaluation's means and times in MLflow, in the runs of the methods."""

from pathlib import Path
from typing import Any

from xmrank import tracking
from xmrank.protocols.evaluation_run import tracked_name
from xmrank.protocols.method_names import FIRST_STAGE, ORACLE, REFINED
from xmrank.tracking.run_tree import PARENT, RunTree, read_run_ids

Rows = list[dict[str, Any]]


def log_results(directory: Path, rankers: Path, stage: str, rows: Rows, timing: Rows) -> None:
    """Log every method's means to its MLflow run; the first stage gets a run beside the rankers'.

    Args:
        directory: of the evaluation; keeps the id of the first stage's run.
        rankers: of the training; has the ids of the rankers' runs. Without them, nothing is logged.
        stage: a tag.
        rows: of the summary.
        timing: of the same keys.
    """
    trials = read_run_ids(rankers)
    if not trials:
        return
    runs = RunTree(directory, stage, tags={"loss": FIRST_STAGE}, parent=lambda: trials[PARENT])
    first = runs.begin_child(FIRST_STAGE)
    # Metrics are sent run by run: one request for each.
    metrics: dict[str, dict[str, float]] = {}
    # A refined first stage has a run of its own beside the rankers'.
    names = sorted({refined_name(row["direction"], row["seed"]) for row in rows if row["method"] == REFINED})
    refined = {name: runs.begin_child(name, tags={"loss": REFINED}) for name in names}
    for row in [*rows, *(make_time_row(row) for row in timing)]:
        run = first if row["method"] in (FIRST_STAGE, ORACLE) else trials.get(trial_name(row))
        if row["method"] == REFINED:
            run = refined[refined_name(row["direction"], row["seed"])]
        if run and row["mean"] is not None:
            metrics.setdefault(run, {})[tracked_name(row)] = row["mean"]
    for run, values in metrics.items():
        # Rankers that were trained with another tracking server have their runs there.
        if tracking.read_status(runs.uri, run):
            tracking.log_metrics(runs.uri, run, values)
    runs.end(failed=False)


def trial_name(row: dict[str, Any]) -> str:
    """The name of the trial that trained a row's ranker."""
    return f"{row['loss']}-{row['direction']}-seed{row['seed']}"


def refined_name(direction: str, seed: int) -> str:
    """The name of the refined first stage of a seed: of its task, its files and its run."""
    return f"{REFINED}-{direction}-seed{seed}"


def make_time_row(row: dict[str, Any]) -> dict[str, Any]:
    """A time as a row of the summary."""
    return {**row, "metric": "ms_per_query", "mean": row["alone_ms"]}
