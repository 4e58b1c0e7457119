"""The evaluation's means and times in MLflow, in the runs of the methods."""

from pathlib import Path
from typing import Any

from xmrank.config.method_names import FIRST_STAGE, ORACLE, REFINED
from xmrank.evaluate.headline import NOTE_TAG, choose_losses, describe_results, list_headline
from xmrank.protocols.evaluation_run import tracked_name
from xmrank.tracking.journal import PARENT, Journal
from xmrank.tracking.run_tree import RunTree, read_run_ids
from xmrank.train.checkpoint_json import read_about
from xmrank.train.trials import Trial
from xmrank.train.weak_rankers import best_validations

Rows = list[dict[str, Any]]
HEADLINE = "headline"
"""Key of the journal for the run above the rankers'."""
NOTE_LIMIT = 8000
"""Characters of a tag, at most."""


def make_run_tree(directory: Path, rankers: Path, stage: str) -> RunTree | None:
    """The runs of the evaluation beside the rankers'; None without a tracked training: then nothing is logged.

    Args:
        directory: of the evaluation; keeps the id of the first stage's run.
        rankers: of the training; has the ids of the rankers' runs.
        stage: a tag.
    """
    trials = read_run_ids(rankers)
    return RunTree(directory, stage, tags={"loss": FIRST_STAGE}, parent=lambda: trials[PARENT]) if trials else None


def log_results(runs: RunTree, rankers: Path, rows: Rows, timing: Rows) -> None:
    """Log every method's means to its MLflow run; the first stage gets a run beside the rankers'.

    Args:
        runs: of the evaluation.
        rankers: of the training.
        rows: of the summary.
        timing: of the same keys.
    """
    ids = read_run_ids(rankers)
    ids[FIRST_STAGE] = runs.begin_child(FIRST_STAGE)
    # A refined first stage has a run of its own beside the rankers'.
    for name in sorted({run_name(row) for row in rows if row["method"] == REFINED}):
        ids[name] = runs.begin_child(name, tags={"loss": REFINED})
    # Collected by run: one record for each.
    metrics: dict[str, dict[str, float]] = {}
    for row in [*rows, *(make_time_row(row) for row in timing)]:
        if run_name(row) in ids and row["mean"] is not None:
            metrics.setdefault(run_name(row), {})[tracked_name(row)] = row["mean"]
    log_headline(runs, rankers, rows)
    for name, values in metrics.items():
        # Rankers that were trained with another tracking server have their runs there: this one refuses the record.
        Journal(runs.journals, name).add_new(ids[name], [(0, values)])


def log_headline(runs: RunTree, rankers: Path, rows: Rows) -> None:
    """Log what the training came to, to the run above those of its rankers: figures, the best losses, a description."""
    trials = [Trial.from_about(read_about(folder)) for folder in sorted((rankers / "trials").iterdir())]
    best = choose_losses(best_validations(trials, rankers))
    tags = {f"best_loss_{direction}": loss for direction, loss in best.items()}
    note = describe_results(rows, best)
    # MLflow refuses longer ones.
    if len(note) <= NOTE_LIMIT:
        tags[NOTE_TAG] = note
    journal = Journal(runs.journals, HEADLINE)
    journal.add(runs.begin_parent(), metrics=list_headline(rows, best), tags=tags)


def run_name(row: dict[str, Any]) -> str:
    """The name of the run that a row is logged to: that of the trial that trained its ranker, or of a first stage."""
    if row["method"] in (FIRST_STAGE, ORACLE):
        return FIRST_STAGE
    if row["method"] == REFINED:
        return refined_name(row["direction"], row["seed"])
    return f"{row['loss']}-{row['direction']}-seed{row['seed']}"


def refined_name(direction: str, seed: int) -> str:
    """The name of the refined first stage of a seed: of its task, its files and its run."""
    return f"{REFINED}-{direction}-seed{seed}"


def make_time_row(row: dict[str, Any]) -> dict[str, Any]:
    """A time as a row of the summary."""
    return {**row, "metric": "ms_per_query", "mean": row["alone_ms"]}
