"""What a training came to, for its run in MLflow: first stage, best loss and gain, and a table in Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from xmrank.config.common import DIRECTIONS
from xmrank.config.method_names import FIRST_STAGE, ORACLE, REFINED
from xmrank.pages.markdown_text import format_table
from xmrank.pages.wording import DIRECTION_NAMES, format_percent, method_name
from xmrank.protocols.evaluation_run import tracked_name
from xmrank.protocols.protocol_names import first_stage_protocol, protocol_name
from xmrank.train.trials import Trial

Rows = Sequence[Mapping[str, Any]]
METRICS = ("hit@1", "hit@5", "hit@10")
NOTE_TAG = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run, in Markdown."""
WITHOUT_LOSS = (FIRST_STAGE, REFINED, ORACLE)
"""Methods that are no rankers."""
Means = dict[tuple[str, str, str], dict[str, float]]
"""Direction, protocol and method (a loss, or one without) → metric → mean over seeds."""


def choose_losses(validations: Mapping[Trial, float]) -> dict[str, str]:
    """Direction → the loss with the highest validation, the mean over its seeds; of equal ones the first by name.

    Args:
        validations: trial → what its kept ranker reaches on the validation lists.
    """
    chosen: dict[str, str] = {}
    for direction in DIRECTIONS:
        of_loss: dict[str, list[float]] = {}
        for trial, value in validations.items():
            if trial.direction == direction:
                of_loss.setdefault(trial.loss, []).append(value)
        if of_loss:
            chosen[direction] = max(sorted(of_loss), key=lambda loss: statistics.fmean(of_loss[loss]))
    return chosen


def list_headline(rows: Rows, best: Mapping[str, str]) -> dict[str, float]:
    """The headline metrics: ``first_stage/i2t/hit_at_1``, ``best/i2t/hit_at_1`` and their difference ``gain/…``.

    Behind the first part are the names that the runs of the first stage and of the rankers have.

    Args:
        rows: of the evaluation's summary.
        best: direction → loss.
    """
    means, headline = average_seeds(rows), {}
    for (direction, protocol, method), values in means.items():
        if best.get(direction) != method:
            continue
        first = find_first_stage(means, direction, protocol)
        for metric in METRICS:
            row = {"direction": direction, "protocol": protocol, "method": method, "metric": metric}
            name = tracked_name(row)
            headline[f"best/{name}"] = values[metric]
            headline[f"first_stage/{name}"] = first[metric]
            headline[f"gain/{name}"] = values[metric] - first[metric]
    return headline


def describe_results(rows: Rows, best: Mapping[str, str]) -> str:
    """The results in Markdown: for each direction and protocol the methods' hit@1, 5 and 10, the best loss in bold."""
    lines = ["Percent on the test queries, mean over seeds; in bold the loss that the validation lists chose."]
    means = average_seeds(rows)
    ranked = {(direction, protocol): None for direction, protocol, method in means if method not in WITHOUT_LOSS}
    for direction, protocol in ranked:
        body = [format_row(FIRST_STAGE, find_first_stage(means, direction, protocol))]
        for (its_direction, its_protocol, method), values in means.items():
            if (its_direction, its_protocol) == (direction, protocol) and method not in (FIRST_STAGE, ORACLE):
                body.append(format_row(method, values, bold=best.get(direction) == method))
        title = f"{protocol_name(protocol)}: {DIRECTION_NAMES[direction]}"
        lines += ["", f"**{title}**", "", *format_table(("method", *METRICS), body)]
    return "\n".join(lines)


def format_row(method: str, values: Mapping[str, float], *, bold: bool = False) -> tuple[str, ...]:
    """A row of the table: the method's name and its percentages."""
    figures = (format_percent(values[metric]) for metric in METRICS)
    return method_name(method), *(f"**{figure}**" if bold else figure for figure in figures)


def average_seeds(rows: Rows) -> Means:
    """The means over seeds of the headline's metrics."""
    values: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row["metric"] in METRICS and row["mean"] is not None:
            key = row["direction"], row["protocol"], row["loss"] or row["method"]
            values.setdefault(key, {}).setdefault(row["metric"], []).append(row["mean"])
    means = {key: {metric: statistics.fmean(seeds) for metric, seeds in own.items()} for key, own in values.items()}
    # A protocol without a query that counts has no means.
    return {key: own for key, own in means.items() if len(own) == len(METRICS)}


def find_first_stage(means: Means, direction: str, protocol: str) -> dict[str, float]:
    """The first stage's figures that those of a protocol compare with: on its queries, in its gallery."""
    return means[direction, first_stage_protocol(protocol), FIRST_STAGE]
