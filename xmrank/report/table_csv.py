"""The result tables as CSV: table.csv, one figure a line."""

import csv
import io
from collections.abc import Sequence

from xmrank.pages.wording import METRICS, metric_name
from xmrank.report.result_tables import ResultTable, TableCell

CSV_COLUMNS = (
    *("protocol", "direction", "split", "method", "ranker", "metric"),
    *("mean_percent", "std_percent", "difference_points", "seeds", "queries", "excluded", "best"),
    *("ci_low_points", "ci_high_points", "p", "p_holm", "significant", "wins", "ties", "losses", "seeds_agreeing"),
)
REFINED_COLUMNS = ("difference_to_refined_points", "p_to_refined", "p_holm_to_refined", "significant_to_refined")
KEPT_COLUMNS = ("seeds_that_kept_their_start",)


def render_csv(tables: Sequence[ResultTable], split: str) -> str:
    """All figures in percent, one for each line, for a spreadsheet or another program."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    # Columns that only some runs have are behind the others.
    with_refined = any(table.refined for table in tables)
    with_kept = any(row.kept_start for table in tables for row in table.rows)
    writer.writerow(CSV_COLUMNS + REFINED_COLUMNS * with_refined + KEPT_COLUMNS * with_kept)
    for table in tables:
        # The ceiling is a row like any other here.
        for row in (*table.rows, *([table.ceiling] if table.ceiling else [])):
            names = [row.figures_protocol(table.protocol), table.direction, split, row.method, row.ranker]
            for metric in (metric for metric in METRICS if metric in row.cells):
                cell = row.cells[metric]
                more = _refined_columns(cell) * with_refined + [row.kept_start] * with_kept
                writer.writerow([*names, *_csv_columns(metric, cell), *more])
    return sink.getvalue()


def _refined_columns(cell: TableCell) -> list[str | int]:
    """The difference to the refined first stage, and its test."""
    test = cell.refined_test
    p = ["", "", ""] if test is None else [f"{test.p:.6g}", f"{test.corrected:.6g}", int(test.significant)]
    return [_format_percent(cell.refined_difference), *p]


def _csv_columns(metric: str, cell: TableCell) -> list[str | int]:
    """The columns of one figure, from the metric on."""
    figures = [_format_percent(value) for value in (cell.mean, cell.deviation, cell.difference)]
    counts = [len(cell.by_seed), cell.queries, cell.excluded, int(cell.best)]
    test = cell.test
    # Nine empty columns where nothing was tested.
    if test is None:
        return [metric_name(metric), *figures, *counts, *[""] * 9]
    tested = [_format_percent(test.low), _format_percent(test.high), f"{test.p:.6g}", f"{test.corrected:.6g}"]
    tallies = [int(test.significant), test.wins, test.ties, test.losses, test.agreeing]
    return [metric_name(metric), *figures, *counts, *tested, *tallies]


def _format_percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.4f}"
