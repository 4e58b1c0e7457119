"""The evaluation's means and times in MLflow, each under its method's run."""

from pathlib import Path
from typing import Any

from xmrank import tracking
from xmrank.protocols.evaluation_run import tracked_name
from xmrank.protocols.method_names import FIRST_STAGE, ORACLE
from xmrank.tracking.run_tree import PARENT, RunTree, read_run_ids

Rows = list[dict[str, Any]]


def log_results(directory: Path, rankers: Path, stage: str, rows: Rows, timing: Rows) -> None:
    """Log every method's means to its MLflow run; the first stage gets a run beside the rankers'.

    Args:
        directory: of the evaluation; remembers the first stage's run.
        rankers: of the training; knows the rankers' runs. Where it does not, nothing is logged.
        stage: a tag.
        rows: of the summary.
        timing: of the same keys.
    """
    trials = read_run_ids(rankers)
    if not trials:
        return
    runs = RunTree(directory, stage, tags={"loss": FIRST_STAGE}, parent=lambda: trials[PARENT])
    first = runs.begin_child(FIRST_STAGE)
    metrics: dict[str, dict[str, float]] = {}
    for row in [*rows, *(time_row(row) for row in timing)]:
        run = first if row["method"] in (FIRST_STAGE, ORACLE) else trials.get(trial_of(row))
        if run and row["mean"] is not None:
            metrics.setdefault(run, {})[tracked_name(row)] = row["mean"]
    for run, values in metrics.items():
        if tracking.status(runs.uri, run):  # rankers that were trained elsewhere have their runs there
            tracking.log_metrics(runs.uri, run, values)
    runs.end(failed=False)


def trial_of(row: dict[str, Any]) -> str:
    """The trial that a ranker's row is of."""
    return f"{row['loss']}-{row['direction']}-seed{row['seed']}"


def time_row(row: dict[str, Any]) -> dict[str, Any]:
    """A time as a row of the summary."""
    return {**row, "metric": "ms_per_query", "mean": row["alone_ms"]}
