"""What the figures say, in a paragraph: which losses beat the first stage where, also when they do not."""

import math
from collections.abc import Sequence

from xmrank.report.tables import Cell, ResultTable, Row
from xmrank.report.text import DIRECTION_NAMES, joined, percent, points, protocol_name

LEAD_METRIC = "hit@1"


def verdict(tables: Sequence[ResultTable]) -> list[str]:
    """Sentences, the first of them the summary.

    A ranker beats the first stage where its figure is above it in every seed, loses where it is below in every seed;
    anything else is no clear difference.
    """
    pairs = [(table, row) for table in tables for row in _compared(table)]
    if not pairs:
        return ["No ranker was compared with the first stage in this run."]
    ahead = sum(standing(row, table) > 0 for table, row in pairs)
    behind = sum(standing(row, table) < 0 for table, row in pairs)
    lead = (
        f"Rankers beat the first stage's {LEAD_METRIC} in {ahead} of {len(pairs)} comparisons "
        f"(a loss, a direction, a protocol), lose in {behind}"
        + (f", and show no clear difference in {len(pairs) - ahead - behind}." if ahead + behind < len(pairs) else ".")
    )
    return [lead, *(_sentence(table) for table in tables if _compared(table)), _caution(tables)]


def standing(row: Row, table: ResultTable) -> int:
    """1: above the first stage in every seed, −1: below in every seed, 0: neither."""
    first = table.first_stage
    cell, level = row.cells[LEAD_METRIC], first.cells[LEAD_METRIC].mean if first else math.nan
    if all(value > level for value in cell.by_seed):
        return 1
    return -1 if all(value < level for value in cell.by_seed) else 0


def _compared(table: ResultTable) -> list[Row]:
    return [row for row in table.rows if LEAD_METRIC in row.cells and row.cells[LEAD_METRIC].difference is not None]


def _sentence(table: ResultTable) -> str:
    rows, first = _compared(table), table.first_stage
    level = percent(first.cells[LEAD_METRIC].mean) if first else "–"
    where = f"{protocol_name(table.protocol)}, {DIRECTION_NAMES.get(table.direction, table.direction)}"
    groups = {sign: [row for row in rows if standing(row, table) == sign] for sign in (1, 0, -1)}
    best = max(rows, key=lambda row: row.cells[LEAD_METRIC].mean)
    clauses = [_winners(groups[1], len(rows), level, best)]
    if groups[-1] and not (groups[1] or groups[0]):
        clauses[0] = f"every loss falls behind the first stage's {level} %; {_closest(best)}"
    elif groups[-1]:
        clauses.append(f"{_named(groups[-1])} {'falls' if len(groups[-1]) == 1 else 'fall'} behind")
    if groups[0]:
        clauses.append(f"no clear difference for {_named(groups[0])}")
    return f"{where}: {'; '.join(clauses)}."


def _winners(winners: list[Row], total: int, level: str, best: Row) -> str:
    if not winners:
        return f"no loss beats the first stage's {level} %"
    cell = best.cells[LEAD_METRIC]
    gain = f"{best.label} best at {percent(cell.mean)} % ({_points(cell)} points)"
    if len(winners) == total:
        return f"{'all ' + str(total) + ' losses beat' if total > 1 else 'the loss beats'} {level} %, {gain}"
    verb = "beats" if len(winners) == 1 else "beat"
    return f"{joined([row.label for row in winners])} {verb} the first stage's {level} %, {gain}"


def _closest(row: Row) -> str:
    return f"{row.label} comes closest ({_points(row.cells[LEAD_METRIC])} points)"


def _named(rows: list[Row]) -> str:
    return joined([f"{row.label} ({_points(row.cells[LEAD_METRIC])})" for row in rows])


def _points(cell: Cell) -> str:
    return points(cell.difference or 0.0)


def _caution(tables: Sequence[ResultTable]) -> str:
    """How far a figure moves by the draw of the queries alone: the standard error of a share."""
    cells = [row.cells[LEAD_METRIC] for table in tables for row in table.rows if LEAD_METRIC in row.cells]
    seeds = max(len(cell.by_seed) for cell in cells)
    errors = [math.sqrt(cell.mean * (1 - cell.mean) / cell.queries) for cell in cells]
    basis = f"“Beat” means above it in {'each of ' + str(seeds) + ' seeds' if seeds > 1 else 'the one seed that was run'}"
    return (
        f"{basis}; it is not a test of significance. By the draw of the queries alone, a figure's standard error here "
        f"is up to {percent(max(errors))} points."
    )
