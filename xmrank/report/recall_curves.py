"""Recall curves: recall@k of each method over k."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmrank.pages.charts import (
    MUTED,
    Chart,
    HoverLine,
    describe_hover,
    label_ends,
    line_style,
    make_canvas,
    svg_of,
)
from xmrank.pages.wording import format_percent
from xmrank.protocols.protocol_names import first_stage_protocol
from xmrank.report.inputs import read_json_object
from xmrank.report.result_tables import ResultTable, TableRow, deepest_tables
from xmrank.runtime.errors import DataError

DESCRIBED = (1, 10)
"""The cut-offs that the description names."""
CURVE_KEYS = {"method", "ranker", "direction", "protocol", "k", "recall"}
"""What a curve in the file has at least."""


@dataclass(frozen=True)
class RecallCurves:
    """The curves of one protocol in one direction."""

    title: str
    chart: Chart


def draw_recall_curves(path: Path, tables: Sequence[ResultTable]) -> list[RecallCurves]:
    """One chart for each table; of several depths of one gallery, only the deepest.

    Args:
        path: the evaluation's curves.json; an evaluation of an earlier version has none, and there is nothing to draw.
        tables: the results, whose rows have their colours by colour_index.
    """
    if not path.exists():
        return []
    rows = _read_rows(path)
    curves = []
    for number, table in enumerate(deepest_tables(tables)):
        if any(_seed_curves(row, table, rows) for row in table.rows):
            curves.append(RecallCurves(table.title, _draw_table(number, table, rows)))
    return curves


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The curves in a file, each with its keys, cut-offs and recalls."""
    rows = read_json_object(path).get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= CURVE_KEYS for row in rows):
        raise DataError(f"{path}: expected rows with {', '.join(sorted(CURVE_KEYS))}")
    if not all(_is_curve(row["k"], row["recall"]) for row in rows):
        raise DataError(f"{path}: expected as many numbers in recall as in k")
    return rows


def _is_curve(cut_offs: object, recalls: object) -> bool:
    """Whether these are numbers, at least one, and as many numbers or nulls."""
    if not isinstance(cut_offs, list) or not isinstance(recalls, list) or not len(cut_offs) == len(recalls) > 0:
        return False
    if not all(isinstance(k, int) for k in cut_offs):
        return False
    return all(recall is None or isinstance(recall, int | float) for recall in recalls)


def _seed_curves(row: TableRow, table: ResultTable, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A method's curves, one for each seed."""
    # The first stage's curve is of the whole gallery, a ranker's of the top N.
    protocol = first_stage_protocol(table.protocol) if row.first_stage else table.protocol
    key = {"method": row.method, "ranker": row.ranker, "direction": table.direction, "protocol": protocol}
    return [entry for entry in rows if all(entry[name] == value for name, value in key.items())]


def _draw_table(number: int, table: ResultTable, rows: list[dict[str, Any]]) -> Chart:
    figure, axes = make_canvas(5.0, 3.3)
    ends, lines, described = [], [], []
    methods = [row.label for row in table.rows if not row.first_stage]
    for row in table.rows:
        seeds = _seed_curves(row, table, rows)
        # Rows without a curve, such as the oracle.
        if not seeds:
            continue
        colour, dash = (MUTED, (0, (4, 3))) if row.first_stage else line_style(methods.index(row.label))
        ks, middle = _draw_method(axes, seeds, colour, dash)
        values = {float(k): f"{height:.1f}" for k, height in zip(ks, middle, strict=True) if not math.isnan(height)}
        lines.append(HoverLine(row.label, colour, values))
        ends.append((middle[-1], row.label, colour))
        figures = [f"@{k} {format_percent(middle[ks.index(k)] / 100)} %" for k in DESCRIBED if k in ks]
        described.append(f"{row.label} {', '.join(figures)}")
    # The first few ranks matter most, so k is on a logarithmic scale.
    axes.set_xscale("log")
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500) if k <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_xlabel("k")
    axes.set_ylabel("recall@k, %")
    label_ends(axes, ends)
    words = f"Recall@k over k, {table.title}. {'; '.join(described)}."
    return Chart(svg_of(figure, f"recall-{number}", words, describe_hover(axes, lines, "k =")), words)


def _draw_method(axes: Any, seeds: list[dict[str, Any]], colour: str, dash: Any) -> tuple[list[int], list[float]]:
    """Draw the mean over seeds and the seeds' range; returns the cut-offs and the line's heights."""
    ks = seeds[0]["k"]
    columns = [
        [100 * value for value in column if value is not None] for column in zip(*_seed_recalls(seeds), strict=True)
    ]
    middle = [statistics.fmean(column) if column else math.nan for column in columns]
    # The range of the seeds as a band.
    if len(seeds) > 1:
        low = [min(column, default=math.nan) for column in columns]
        high = [max(column, default=math.nan) for column in columns]
        axes.fill_between(ks, low, high, color=colour, alpha=0.14, linewidth=0)
    axes.plot(ks, middle, color=colour, linestyle=dash)
    return ks, middle


def _seed_recalls(seeds: list[dict[str, Any]]) -> list[list[float | None]]:
    return [seed["recall"] for seed in seeds]
