"""What the figures say, in plain words: which losses beat the first stage where, also when they do not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xmrank.pages.wording import ALPHA, DIRECTION_NAMES, joined, percent, percentage, points
from xmrank.report.protocol_names import protocol_name
from xmrank.report.result_tables import ResultTable, TableRow, deepest

LEAD_METRIC = "hit@1"


@dataclass(frozen=True)
class Summary:
    """The summary of a run.

    Attributes:
        lead: one sentence over all comparisons.
        places: where (protocol and direction), and what happened there.
        caution: how far the words carry.
    """

    lead: str
    places: tuple[tuple[str, str], ...] = ()
    caution: str = ""


def verdict(tables: Sequence[ResultTable]) -> Summary:
    """Count and name who beats the first stage's hit@1.

    A ranker beats the first stage where the test finds its figure above, falls behind where below; anything else is
    no clear difference. Where nothing was tested, above or below in every seed takes the test's place. Of several
    depths of one gallery the deepest counts: the others say how much depth matters, not once more whether it helps.
    """
    tables = deepest(tables)
    standings = [standing(row, table) for table in tables for row in _compared(table)]
    if not standings:
        return Summary("No ranker was compared with the first stage in this run.")
    ahead, behind, unclear = (standings.count(sign) for sign in (1, -1, 0))
    lead = f"Re-ranking beats the first stage’s {LEAD_METRIC} in {ahead or 'none'} of {len(standings)} comparisons"
    rest = f", falls behind in {behind} and makes no clear difference in {unclear}."
    return Summary(
        lead + (rest if unclear else f" and falls behind in {behind or 'none'}."),
        tuple((_place(table), _sentence(table)) for table in tables if _compared(table)),
        _caution(tables),
    )


def standing(row: TableRow, table: ResultTable) -> int:
    """1: above the first stage, −1: below, 0: no clear difference."""
    first = table.first_stage
    if row.cells[LEAD_METRIC].test:
        return row.cells[LEAD_METRIC].verdict
    cell, level = row.cells[LEAD_METRIC], first.cells[LEAD_METRIC].mean if first else math.nan
    if all(value > level for value in cell.by_seed):
        return 1
    return -1 if all(value < level for value in cell.by_seed) else 0


def _compared(table: ResultTable) -> list[TableRow]:
    """The rankers with a difference to the first stage, the best first."""
    rows = [row for row in table.rows if row.trained_ranker and LEAD_METRIC in row.cells]
    rows = [row for row in rows if row.cells[LEAD_METRIC].difference is not None]
    return sorted(rows, key=lambda row: -row.cells[LEAD_METRIC].mean)


def _place(table: ResultTable) -> str:
    return f"{protocol_name(table.protocol)}, {DIRECTION_NAMES.get(table.direction, table.direction)}"


def _sentence(table: ResultTable) -> str:
    first = table.first_stage
    level = f"the first stage’s {percentage(first.cells[LEAD_METRIC].mean)}" if first else "the first stage"
    groups = {sign: [row for row in _compared(table) if standing(row, table) == sign] for sign in (1, 0, -1)}
    clauses = [f"{_named(groups[1])} {_verb('beat', groups[1])} {level}" if groups[1] else f"no loss beats {level}"]
    if groups[-1]:
        clauses.append(f"{_named(groups[-1])} {_verb('fall', groups[-1])} behind")
    if groups[0]:
        clauses.append(f"{_named(groups[0])} {_verb('make', groups[0])} no clear difference")
    return "; ".join(clauses) + "."


def _verb(verb: str, rows: list[TableRow]) -> str:
    return f"{verb}s" if len(rows) == 1 else verb


def _named(rows: list[TableRow]) -> str:
    cells = [row.cells[LEAD_METRIC] for row in rows]
    figures = [f"{percentage(cell.mean)}, {points(cell.difference or 0.0)}" for cell in cells]
    return joined([f"{row.label} ({figure})" for row, figure in zip(rows, figures, strict=True)])


def _caution(tables: Sequence[ResultTable]) -> str:
    """What “beat” means, and how far a figure moves by the draw of the queries: the standard error of a share."""
    cells = [row.cells[LEAD_METRIC] for table in tables for row in table.rows if LEAD_METRIC in row.cells]
    seeds = max(len(cell.by_seed) for cell in cells)
    error = max(math.sqrt(cell.mean * (1 - cell.mean) / cell.queries) for cell in cells)
    over = f"the mean of {seeds} seeds" if seeds > 1 else "the one seed that was run"
    beats = (
        f"significantly above the first stage, {over} compared query by query (p < {ALPHA} after correction)"
        if any(cell.test for cell in cells)
        else f"above the first stage in {f'each of {seeds} seeds' if seeds > 1 else over}; it is not a test of "
        "significance"
    )
    return (
        f"A comparison is one loss in one direction on one protocol. “Beats” means {beats}. "
        f"By the draw of the queries alone, the standard error of a figure here is up to {percent(error)} points."
    )
