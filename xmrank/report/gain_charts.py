"""The result as a picture: what each loss gains, with the interval of the gain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xmrank.pages.charts import DOWN, MUTED, UP, Chart, make_canvas, svg_of, write_beside
from xmrank.pages.wording import format_points
from xmrank.report.result_tables import ComparedCell, ResultTable, TableCell, TableRow, deepest_tables
from xmrank.report.summary import LEAD_METRIC

OUTCOME_COLOURS = {1: UP, 0: MUTED, -1: DOWN}
"""Colour is for what is significant: everything else may be chance."""
SHIFT = 0.17
"""How far the two gains of a row are from its middle."""


@dataclass(frozen=True)
class GainChart:
    """The gains on one protocol in one direction.

    Attributes:
        refined: whether it also has the gains over the refined first stage.
    """

    title: str
    chart: Chart
    refined: bool


@dataclass(frozen=True)
class Gain:
    """One gain of a row: over the first stage, or over the refined one.

    Attributes:
        difference: of the means, a fraction.
        outcome: 1: significantly above, −1: below, 0: neither.
        test: has the interval; None where it was not tested.
    """

    difference: float
    outcome: int
    test: ComparedCell | None

    @property
    def words(self) -> str:
        """The gain and its interval, in points."""
        if self.test is None:
            return format_points(self.difference)
        return f"{format_points(self.difference)} ({format_points(self.test.low)} to {format_points(self.test.high)})"


def draw_gains(tables: Sequence[ResultTable]) -> list[GainChart]:
    """A chart for each table with rankers; of several depths of one gallery, only the deepest."""
    drawn = [(table, rows) for table in deepest_tables(tables) if (rows := _compared_rows(table))]
    # One scale for all, so that gains can be compared between them.
    ends = [_ends(gain) for _, rows in drawn for row in rows for gain in _gains(row.cells[LEAD_METRIC])]
    low, high = min((end[0] for end in ends), default=0.0), max((end[1] for end in ends), default=0.0)
    reach = (min(low, 0.0), max(high, 0.0))
    return [
        GainChart(table.title, _draw_table(number, table, rows, reach), table.refined is not None)
        for number, (table, rows) in enumerate(drawn)
    ]


def _compared_rows(table: ResultTable) -> list[TableRow]:
    rows = [row for row in table.rows if row.trained_ranker and LEAD_METRIC in row.cells]
    return [row for row in rows if row.cells[LEAD_METRIC].difference is not None]


def _gains(cell: TableCell) -> list[Gain]:
    """The gain over the first stage, and over the refined one where there is one."""
    gains = [Gain(cell.difference or 0.0, cell.outcome, cell.test)]
    if cell.refined_difference is not None:
        gains.append(Gain(cell.refined_difference, cell.refined_outcome, cell.refined_test))
    return gains


def _ends(gain: Gain) -> tuple[float, float]:
    return (gain.test.low, gain.test.high) if gain.test else (gain.difference, gain.difference)


def _draw_table(number: int, table: ResultTable, rows: list[TableRow], reach: tuple[float, float]) -> Chart:
    several = table.refined is not None
    figure, axes = make_canvas(5.0, 0.75 + (0.5 if several else 0.34) * len(rows))
    described = []
    for index, row in enumerate(rows):
        gains = _gains(row.cells[LEAD_METRIC])
        for gain, shift, marker in zip(gains, (-SHIFT, SHIFT) if several else (0.0,), "oD", strict=False):
            _draw_gain(axes, gain, index + shift, marker)
        named = zip(("over the first stage", "over the refined first stage"), gains, strict=False)
        described.append(f"{row.label} " + ", ".join(f"{gain.words} {over}" for over, gain in named))
    axes.axvline(0, color=MUTED, linewidth=1.1)
    axes.set_yticks(range(len(rows)), [row.marked_label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    room = 0.04 * (reach[1] - reach[0]) or 0.01
    axes.set_xlim(100 * (reach[0] - room), 100 * (reach[1] + room))
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.xaxis.get_major_locator().set_params(integer=False)
    axes.set_xlabel(f"gain in {LEAD_METRIC}, points")
    words = f"Gain in {LEAD_METRIC}, points, with 95 % intervals, {table.title}. {'; '.join(described)}."
    return Chart(svg_of(figure, f"gain-{number}", words), words)


def _draw_gain(axes: Any, gain: Gain, height: float, marker: str) -> None:
    """A mark at the gain, on the line of its interval, and the figure beside it."""
    colour, (low, high) = OUTCOME_COLOURS[gain.outcome], _ends(gain)
    axes.plot([100 * low, 100 * high], [height, height], color=colour, linewidth=1.6)
    face = colour if marker == "o" else "none"
    axes.plot([100 * gain.difference], [height], marker, color=colour, markerfacecolor=face, markersize=6)
    write_beside(axes, format_points(gain.difference), height, colour)
