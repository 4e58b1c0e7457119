"""Several experiments on one page: their gains, their figures, and in which settings they differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xmrank.config.report import ReportConfig
from xmrank.pages.markdown_text import escape_markdown, format_table
from xmrank.pages.templating import fill_template
from xmrank.pages.wording import describe_value, format_percentage, format_points, join_words
from xmrank.report.gain_charts import GainChart, draw_gains
from xmrank.report.kept_tables import read_kept_tables
from xmrank.report.markdown import result_lines
from xmrank.report.result_tables import ResultTable, TableRow, deepest_tables, mark_best
from xmrank.report.stage import STAGE, TABLES
from xmrank.report.summary import LEAD_METRIC
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_text
from xmrank.runtime.manifest import MANIFEST, Manifest, parse_manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.verification import read_outputs

COMPARISON = "comparison"
"""The stage's name."""
PAGE, MARKDOWN = "comparison.html", "comparison.md"
STAGES = ("embeddings", "lists", "rankers")
"""Directories of an experiment whose settings are compared."""


@dataclass(frozen=True)
class ComparedExperiment:
    """A finished experiment.

    Attributes:
        fingerprint: of its report.
        settings: value by dotted name, such as rankers.epochs; empty where the report lies alone.
    """

    name: str
    fingerprint: str
    tables: list[ResultTable]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class ExperimentComparison:
    """What the page shows.

    Attributes:
        best: protocol and direction, and the best of all experiments there.
        differences: setting, and its value in each experiment.
        notes: what a reader must know of a table, by its title.
    """

    title: str
    names: list[str]
    best: list[tuple[str, str]]
    gains: list[GainChart]
    differences: list[tuple[str, list[str]]]
    tables: list[ResultTable]
    notes: dict[str, str]


def compare_experiments(config: ReportConfig) -> Manifest:
    """Write the page that compares the experiments of ``--compare``; one that is there stays as it is.

    Raises:
        DataError: an experiment without a finished report, or two of one name.
    """
    experiments = [open_experiment(resolve(path)) for path in config.compare]
    names = [experiment.name for experiment in experiments]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"--compare: two experiments are called {min(twice)}; rename a directory")
    stage = StageDirectory.open(
        resolve(config.output),
        COMPARISON,
        config={"title": config.title, "experiments": names},
        inputs={experiment.name: experiment.fingerprint for experiment in experiments},
        overwrite=config.overwrite,
    )
    if not stage.done:
        content = build_comparison(config.title, experiments)
        page = fill_template("comparison.html.jinja", room="xmrank.report", content=content)
        write_text(stage.directory / PAGE, page)
        write_text(stage.directory / MARKDOWN, render_comparison(content))
    manifest = stage.done or stage.finish(counts={"experiments": len(names)})
    for name, file in (("page", PAGE), ("Markdown", MARKDOWN)):
        print(f"{name}: {stage.directory / file}")
    return manifest


def open_experiment(directory: Path) -> ComparedExperiment:
    """The tables and settings of an experiment.

    Args:
        directory: of the experiment, with its report in ``report``; or of a report alone.

    Raises:
        DataError: no finished report there.
    """
    inner = directory / "report"
    report = inner if (inner / MANIFEST).is_file() else directory
    manifest = read_outputs(report, STAGE)
    if TABLES not in manifest.outputs:
        raise DataError(f"{report}: a report of an earlier version; make it anew with --overwrite")
    settings: dict[str, Any] = {}
    for name in STAGES:
        if report == inner and (directory / name / MANIFEST).is_file():
            settings |= flatten_settings(parse_manifest(directory / name).config, f"{name}.")
    return ComparedExperiment(directory.name, manifest.fingerprint, read_kept_tables(report / TABLES), settings)


def flatten_settings(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def build_comparison(title: str, experiments: Sequence[ComparedExperiment]) -> ExperimentComparison:
    """The parts of the page."""
    tables = join_tables(experiments)
    notes = {table.title: note for table in tables if (note := describe_first_stages(table))}
    return ExperimentComparison(
        title=title,
        names=[experiment.name for experiment in experiments],
        best=[(table.title, describe_best(table)) for table in tables],
        gains=draw_gains(tables),
        differences=find_differences(experiments),
        tables=tables,
        notes=notes,
    )


def join_tables(experiments: Sequence[ComparedExperiment]) -> list[ResultTable]:
    """A table for each protocol and direction, with the rows of all experiments that have it.

    Of several depths of one gallery, only an experiment's deepest counts.
    """
    joined: dict[tuple[str, str], list[TableRow]] = {}
    for experiment in experiments:
        for table in deepest_tables(experiment.tables):
            rows = [replace(row, label=f"{experiment.name}: {row.label}") for row in table.rows]
            joined.setdefault((table.protocol, table.direction), []).extend(rows)
    return [ResultTable(*key, tuple(mark_best(rows))) for key, rows in joined.items()]


def describe_best(table: ResultTable) -> str:
    """The best ranker of a table in words."""
    rows = [row for row in table.rows if row.trained_ranker and LEAD_METRIC in row.cells]
    if not rows:
        return "no ranker."
    best = max(rows, key=lambda row: row.cells[LEAD_METRIC].mean)
    cell = best.cells[LEAD_METRIC]
    gain = f", {format_points(cell.difference)}{cell.mark} to its first stage" if cell.difference is not None else ""
    return f"{best.marked_label} has the highest {LEAD_METRIC}: {format_percentage(cell.mean)}{gain}."


def describe_first_stages(table: ResultTable) -> str:
    """A caution where the experiments start from different first stages; empty where they do not."""
    rows = [row for row in table.rows if row.first_stage and LEAD_METRIC in row.cells]
    levels = dict.fromkeys(format_percentage(row.cells[LEAD_METRIC].mean) for row in rows)
    if len(levels) < 2:
        return ""
    return (
        f"The first stages differ ({join_words(list(levels))} in {LEAD_METRIC}): other data, another encoder or other "
        "lists. Compare gains, not levels."
    )


def find_differences(experiments: Sequence[ComparedExperiment]) -> list[tuple[str, list[str]]]:
    """The settings in which experiments differ, with the value of each; – where one has no such setting."""
    names = dict.fromkeys(name for experiment in experiments for name in experiment.settings)
    differences = []
    for name in names:
        values = [experiment.settings.get(name, "–") for experiment in experiments]
        if len({json.dumps(value, sort_keys=True) for value in values}) > 1:
            differences.append((name, [describe_value(value) for value in values]))
    return differences


def render_comparison(content: ExperimentComparison) -> str:
    """The comparison as Markdown."""
    lines = [f"# {escape_markdown(content.title)}", ""]
    lines += [f"- {escape_markdown(title)}: {escape_markdown(text)}" for title, text in content.best]
    lines += ["", "## Settings that differ", ""]
    rows = [(name, *map(escape_markdown, values)) for name, values in content.differences]
    lines += format_table(("setting", *map(escape_markdown, content.names)), rows) if rows else ["None."]
    lines += ["", "## Results", ""]
    for table in content.tables:
        lines += result_lines(table, content.notes.get(table.title))
    return "\n".join(lines) + "\n"
