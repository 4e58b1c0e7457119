"""Every seed's figure, one dot each: how far training alone moves it."""

from collections.abc import Sequence
from dataclasses import dataclass

from xmrank.pages.charts import MUTED, Chart, canvas, look, svg_of
from xmrank.pages.wording import percent
from xmrank.report.result_tables import ResultTable, TableRow, deepest
from xmrank.report.summary import LEAD_METRIC


@dataclass(frozen=True)
class SeedScatter:
    """The dots of one protocol in one direction."""

    title: str
    chart: Chart


def seed_scatter(tables: Sequence[ResultTable]) -> list[SeedScatter]:
    """A chart a table with a method of two seeds or more, of several depths of one gallery the deepest."""
    return [
        SeedScatter(table.title, _chart(number, table))
        for number, table in enumerate(deepest(tables))
        if any(len(row.cells[LEAD_METRIC].by_seed) > 1 for row in _drawn(table))
    ]


def _drawn(table: ResultTable) -> list[TableRow]:
    return [row for row in table.rows if not row.first_stage and LEAD_METRIC in row.cells]


def _chart(number: int, table: ResultTable) -> Chart:
    rows = _drawn(table)
    figure, axes = canvas(5.0, 0.9 + 0.34 * len(rows))
    for place, row in enumerate(rows):
        colour, _ = look(place)
        cell = row.cells[LEAD_METRIC]
        axes.plot([100 * value for value in cell.by_seed], [place] * len(cell.by_seed), "o", color=colour, alpha=0.75)
        axes.plot([100 * cell.mean], [place], "|", color=colour, markersize=18)
    told = [f"{row.label} {', '.join(percent(value) for value in row.cells[LEAD_METRIC].by_seed)} %" for row in rows]
    if table.first_stage and LEAD_METRIC in table.first_stage.cells:
        level = table.first_stage.cells[LEAD_METRIC].mean
        axes.axvline(100 * level, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        told.append(f"dashed: the first stage, {percent(level)} %")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.xaxis.get_major_locator().set_params(integer=False)
    axes.set_xlabel(f"{LEAD_METRIC}, %")
    words = f"{LEAD_METRIC} of every seed, {table.title}. {'; '.join(told)}."
    return Chart(svg_of(figure, f"seeds-{number}", words), words)
