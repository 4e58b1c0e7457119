"""The result tables on a terminal, or in a file that its output goes to."""

import math
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from xmrank.pages.wording import METRICS, format_percent, format_points, metric_name
from xmrank.report.result_tables import ResultTable, TableCell

LEGIBLE = 100
HALF = 3
COLOURS = {1: "green", 0: "", -1: "red"}
LEGEND = "percent, mean±std over seeds; * best of the column; Δ: hit@1 against the first stage, in points"
REFINED_LEGEND = "Δr: hit@1 against the refined first stage, which has no ranking loss; ▲▼ by the same test"
TESTED = "▲▼ significantly above or below it (★ and best): sign-flip test by image, Holm, p < 0.05"


def print_tables(tables: Sequence[ResultTable], console: Console | None = None) -> None:
    """Print one table for each protocol and direction, in two halves where it is too wide, and a legend.

    Args:
        tables: the results.
        console: None: standard output, 100 columns wide when that is no terminal.
    """
    console = console or Console(file=sys.stdout, width=None if sys.stdout.isatty() else LEGIBLE, highlight=False)
    for table in tables:
        # The smallest and the largest number of queries, or the only one.
        queries = " to ".join(f"{count:,}" for count in table.query_counts[:: max(len(table.query_counts) - 1, 1)])
        _print_line(console, f"\n{table.title} ({queries} queries)", "bold")
        # Two tables of half the metrics where one would not fit.
        whole = _draw_table(table, METRICS)
        halves = (_draw_table(table, METRICS[:HALF]), _draw_table(table, METRICS[HALF:]))
        for part in (whole,) if _needed_width(console, whole) <= console.width else halves:
            # Never cut, however long the name of a loss is: a terminal wraps a line that is too wide.
            console.print(part, width=max(console.width, _needed_width(console, part)), crop=False)
    # The legend explains the marks only where there are any.
    tested = any(cell.test for table in tables for cell in table.all_cells())
    _print_line(console, f"\n{LEGEND}" + (f"\n{TESTED}" if tested else ""), "dim")
    if any(table.refined for table in tables):
        _print_line(console, REFINED_LEGEND, "dim")


def _print_line(console: Console, text: str, style: str) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _needed_width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _draw_table(table: ResultTable, metrics: Sequence[str]) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    drawn.add_column("", no_wrap=True)
    for metric in metrics:
        drawn.add_column(metric_name(metric), justify="right", no_wrap=True)
    drawn.add_column("Δ", justify="right", no_wrap=True)
    if table.refined:
        drawn.add_column("Δr", justify="right", no_wrap=True)
    for row in table.rows:
        figures = (_format_cell(row.cells.get(metric)) for metric in metrics)
        cell = row.cells.get("hit@1") if "hit@1" in metrics else None
        differences = [_format_difference(cell.difference if cell else None)]
        if table.refined:
            text = _format_difference(cell.refined_difference if cell else None)
            differences.append(text.append(cell.refined_mark if cell else ""))
        drawn.add_row(Text(row.marked_label), *figures, *differences)
    if table.ceiling:
        figures = (_format_cell(table.ceiling.cells.get(metric)) for metric in metrics)
        drawn.add_row(Text(table.ceiling.label), *figures, "", style="dim")
    return drawn


def _format_cell(cell: TableCell | None) -> Text:
    if cell is None:
        return Text("– ")
    # One seed has no deviation.
    spread = "" if cell.deviation is None else f"±{format_percent(cell.deviation)}"
    text = Text(format_percent(cell.mean), style="bold" if cell.best else "")
    text.append(spread, style="not bold dim")
    # The mark is a character and not only a colour, which a pipe would lose; a blank keeps figures in line.
    mark = "★" if cell.best and cell.outcome > 0 else cell.mark or ("*" if cell.best else " ")
    return text.append(mark, style=COLOURS[cell.outcome])


def _format_difference(difference: float | None) -> Text:
    if difference is None or math.isnan(difference):
        return Text("")
    return Text(format_points(difference), style="green" if difference > 0 else "red" if difference < 0 else "")
