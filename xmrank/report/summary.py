"""Summary: what the figures say, in plain words, also where no ranker beats the first stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xmrank.pages.wording import ALPHA, DIRECTION_NAMES, format_percent, format_percentage, format_points, join_words
from xmrank.protocols.protocol_names import protocol_name
from xmrank.report.result_tables import ResultTable, TableCell, TableRow, deepest_tables

LEAD_METRIC = "hit@1"


@dataclass(frozen=True)
class Summary:
    """The summary of a run.

    Attributes:
        lead: one sentence over all comparisons.
        findings: protocol and direction, and what happened there.
        caution: what "beats" means, and how uncertain a figure is.
    """

    lead: str
    findings: tuple[tuple[str, str], ...] = ()
    caution: str = ""


def summarise_results(tables: Sequence[ResultTable]) -> Summary:
    """Count and name the rankers that beat the first stage's hit@1.

    A ranker beats the first stage where its figure is significantly above, and falls behind where it is significantly
    below; anything else is no clear difference. Without a test, above or below in every seed decides. Of several
    depths of one gallery, only the deepest counts: the others show how much depth matters. A row whose rankers all kept
    their start is counted separately: its loss has changed nothing.
    """
    tables = deepest_tables(tables)
    rows = [(row, table) for table in tables for row in _compared_rows(table)]
    outcomes = [row_outcome(row, table) for row, table in rows if not row.all_kept_start]
    if not rows:
        return Summary("No ranker was compared with the first stage in this run.")
    findings = tuple((_name_setting(table), _describe_table(table)) for table in tables if _compared_rows(table))
    lead = " ".join(filter(None, (_count_outcomes(outcomes), _count_refined(rows), _count_kept(rows))))
    return Summary(lead, findings, _describe_caution(tables))


def _count_outcomes(outcomes: Sequence[int]) -> str:
    """One sentence over the comparisons with the first stage."""
    if not outcomes:
        return f"No loss changed a ranker, so none beats the first stage’s {LEAD_METRIC}."
    ahead, behind, unclear = (outcomes.count(outcome) for outcome in (1, -1, 0))
    lead = f"Re-ranking beats the first stage’s {LEAD_METRIC} in {ahead or 'none'} of {len(outcomes)} comparisons"
    # Two endings, so that no sentence speaks of zero unclear comparisons.
    rest = f", falls behind in {behind} and makes no clear difference in {unclear}."
    return lead + (rest if unclear else f" and falls behind in {behind or 'none'}.")


def _count_refined(rows: Sequence[tuple[TableRow, ResultTable]]) -> str:
    """One sentence over the comparisons with the refined first stage; empty where there is none."""
    outcomes = [refined_outcome(row, table) for row, table in rows if table.refined and not row.all_kept_start]
    if not outcomes:
        return ""
    ahead, behind, unclear = (outcomes.count(outcome) or "none" for outcome in (1, -1, 0))
    return (
        f"Against the refined first stage, which has no ranking loss, it is ahead in {ahead} of {len(outcomes)}, "
        f"behind in {behind}, and without a clear difference in {unclear}."
    )


def _count_kept(rows: Sequence[tuple[TableRow, ResultTable]]) -> str:
    """One sentence on the comparisons in which a loss changed nothing; empty where there is none."""
    kept = sum(row.all_kept_start for row, _ in rows)
    if not kept:
        return ""
    more = "comparison is" if kept == 1 else "comparisons are"
    return f"{kept} {more} not counted: the rankers kept their start, so the loss changed nothing."


def row_outcome(row: TableRow, table: ResultTable) -> int:
    """1: above the first stage, −1: below, 0: no clear difference."""
    cell = row.cells[LEAD_METRIC]
    # A test decides where there is one.
    return cell.outcome if cell.test else _compare_seeds(cell, table.first_stage)


def refined_outcome(row: TableRow, table: ResultTable) -> int:
    """1: above the refined first stage, −1: below, 0: no clear difference."""
    cell = row.cells[LEAD_METRIC]
    return cell.refined_outcome if cell.refined_test else _compare_seeds(cell, table.refined)


def _compare_seeds(cell: TableCell, reference: TableRow | None) -> int:
    """Without a test, all seeds must be on the same side of the other method's mean; NaN is on neither."""
    level = reference.cells[LEAD_METRIC].mean if reference and LEAD_METRIC in reference.cells else math.nan
    if all(value > level for value in cell.by_seed):
        return 1
    return -1 if all(value < level for value in cell.by_seed) else 0


def _compared_rows(table: ResultTable) -> list[TableRow]:
    """The rankers with a difference to the first stage, the best first."""
    rows = [row for row in table.rows if row.trained_ranker and LEAD_METRIC in row.cells]
    rows = [row for row in rows if row.cells[LEAD_METRIC].difference is not None]
    return sorted(rows, key=lambda row: -row.cells[LEAD_METRIC].mean)


def _name_setting(table: ResultTable) -> str:
    return f"{protocol_name(table.protocol)}, {DIRECTION_NAMES.get(table.direction, table.direction)}"


def _describe_table(table: ResultTable) -> str:
    """One sentence: who beats the first stage, who falls behind, and for whom the difference is unclear."""
    first, rows = table.first_stage, _compared_rows(table)
    level = f"the first stage’s {format_percentage(first.cells[LEAD_METRIC].mean)}" if first else "the first stage"
    kept = [row for row in rows if row.all_kept_start]
    rows = [row for row in rows if not row.all_kept_start]
    groups = {outcome: [row for row in rows if row_outcome(row, table) == outcome] for outcome in (1, 0, -1)}
    ahead, unclear, behind = groups[1], groups[0], groups[-1]
    clauses = [f"{_name_rows(ahead)} {_conjugate('beat', ahead)} {level}" if ahead else f"no loss beats {level}"]
    if behind:
        clauses.append(f"{_name_rows(behind)} {_conjugate('fall', behind)} behind")
    if unclear:
        clauses.append(f"{_name_rows(unclear)} {_conjugate('make', unclear)} no clear difference")
    if kept:
        clauses.append(f"{_name_rows(kept)} kept {'its' if len(kept) == 1 else 'their'} start")
    if table.refined and LEAD_METRIC in table.refined.cells:
        clauses.append(_describe_refined(table, rows))
    return "; ".join(clauses) + "."


def _describe_refined(table: ResultTable, rows: list[TableRow]) -> str:
    """The refined first stage's level, and who is significantly above it."""
    assert table.refined is not None
    above = [row.label for row in rows if refined_outcome(row, table) == 1]
    level = _name_rows([table.refined]).replace(table.refined.label, table.refined.label.lower())
    return f"above the {level}, which has no loss: {join_words(above) if above else 'none'}"


def _conjugate(verb: str, rows: list[TableRow]) -> str:
    return f"{verb}s" if len(rows) == 1 else verb


def _name_rows(rows: list[TableRow]) -> str:
    """The rows' labels with their figures, as a phrase."""
    named = []
    for row in rows:
        cell = row.cells[LEAD_METRIC]
        named.append(f"{row.label} ({format_percentage(cell.mean)}, {format_points(cell.difference or 0.0)})")
    return join_words(named)


def _describe_caution(tables: Sequence[ResultTable]) -> str:
    """What “beats” means, and the standard error of a figure over the draw of the queries."""
    cells = [row.cells[LEAD_METRIC] for table in tables for row in table.rows if LEAD_METRIC in row.cells]
    seeds = max(len(cell.by_seed) for cell in cells)
    # The standard error of a proportion.
    error = max(math.sqrt(cell.mean * (1 - cell.mean) / cell.queries) for cell in cells)
    over = f"the mean of {seeds} seeds" if seeds > 1 else "the one seed that was run"
    if any(cell.test for cell in cells):
        beats = f"significantly above the first stage, {over} compared query by query (p < {ALPHA} after correction)"
    else:
        every = f"each of {seeds} seeds" if seeds > 1 else over
        beats = f"above the first stage in {every}; it is not a test of significance"
    return (
        f"A comparison is one loss in one direction on one protocol. “Beats” means {beats}. "
        "By the draw of the queries alone, the standard error of a figure here is up to "
        f"{format_percent(error)} points."
    )
