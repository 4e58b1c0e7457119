"""Running the evaluation tasks of a stage, and joining what they wrote."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xmrank.config.method_names import ORACLE
from xmrank.metrics import mlflow_name
from xmrank.protocols.evaluation_task import EvaluationTask, evaluate_method
from xmrank.protocols.query_tables import METRICS_SCHEMA, RANKINGS_SCHEMA
from xmrank.protocols.table_parts import join_tables
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.progress import Progress

TIE_RULE = "expectation over random orders of equal scores"
TREC = "trec"
"""Folder of the TREC files in a stage's output."""


def run_evaluation(tasks: Sequence[EvaluationTask], output: Path) -> None:
    """Run the tasks that are not done, on the cluster, and join the tables of all.

    Args:
        tasks: in the order of the tables.
        output: takes ``metrics.parquet`` and ``rankings.parquet``.
    """
    left = sorted((task for task in tasks if not task.is_done()), key=lambda task: task.family)
    with Progress("evaluate (methods)", len(tasks), len(tasks) - len(left)) as progress:
        # Without a task that is left, no cluster is started.
        for _ in run_tasks(evaluate_method, left) if left else ():
            progress.advance()
    join_tables(output / "metrics.parquet", [task.part_path("metrics") for task in tasks], METRICS_SCHEMA)
    join_tables(output / "rankings.parquet", [task.part_path("rankings") for task in tasks], RANKINGS_SCHEMA)


def read_rows(tasks: Sequence[EvaluationTask], kind: str) -> list[dict[str, Any]]:
    """The rows of all tasks' part files of a JSON kind."""
    rows = []
    for task in tasks:
        rows += json.loads(task.part_path(kind).read_text())
    return rows


def tracked_name(row: Mapping[str, Any]) -> str:
    """The MLflow name of a summary row: t2i/recall_at_5, t2i/top-100/hit_at_1, t2i/top-100/oracle/hit_at_1."""
    # The mined lists are the default protocol and need no prefix.
    protocol = "" if row["protocol"] == "lists" else f"{row['protocol']}/"
    method = f"{ORACLE}/" if row["method"] == ORACLE else ""
    return f"{row['direction']}/{protocol}{method}{mlflow_name(row['metric'])}"
