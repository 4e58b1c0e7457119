"""Every seed's figure as a dot: how much training alone varies."""

from collections.abc import Sequence
from dataclasses import dataclass

from xmrank.pages.charts import MUTED, Chart, line_style, make_canvas, svg_of
from xmrank.pages.wording import format_percent
from xmrank.report.result_tables import ResultTable, TableRow, deepest_tables
from xmrank.report.summary import LEAD_METRIC


@dataclass(frozen=True)
class SeedScatter:
    """The dots of one protocol in one direction."""

    title: str
    chart: Chart


def draw_seeds(tables: Sequence[ResultTable]) -> list[SeedScatter]:
    """A chart for each table with a method of two seeds or more; of several depths of a gallery, only the deepest."""
    scatters = []
    for number, table in enumerate(deepest_tables(tables)):
        # A single dot for each row would say no more than the table.
        if any(len(row.cells[LEAD_METRIC].by_seed) > 1 for row in _drawn_rows(table)):
            scatters.append(SeedScatter(table.title, _draw_seeds(number, table)))
    return scatters


def _drawn_rows(table: ResultTable) -> list[TableRow]:
    return [row for row in table.rows if not row.first_stage and LEAD_METRIC in row.cells]


def _draw_seeds(number: int, table: ResultTable) -> Chart:
    rows = _drawn_rows(table)
    figure, axes = make_canvas(5.0, 0.9 + 0.34 * len(rows))
    for index, row in enumerate(rows):
        colour, _ = line_style(index)
        cell = row.cells[LEAD_METRIC]
        axes.plot([100 * value for value in cell.by_seed], [index] * len(cell.by_seed), "o", color=colour, alpha=0.75)
        axes.plot([100 * cell.mean], [index], "|", color=colour, markersize=18)
    described = []
    for row in rows:
        values = [format_percent(value) for value in row.cells[LEAD_METRIC].by_seed]
        described.append(f"{row.label} {', '.join(values)} %")
    # The first stage has no seeds: it is a line over all rows.
    if table.first_stage and LEAD_METRIC in table.first_stage.cells:
        level = table.first_stage.cells[LEAD_METRIC].mean
        axes.axvline(100 * level, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        described.append(f"dashed: the first stage, {format_percent(level)} %")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    # The rows from top to bottom, as in the table.
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.xaxis.get_major_locator().set_params(integer=False)
    axes.set_xlabel(f"{LEAD_METRIC}, %")
    words = f"{LEAD_METRIC} of every seed, {table.title}. {'; '.join(described)}."
    return Chart(svg_of(figure, f"seeds-{number}", words), words)
