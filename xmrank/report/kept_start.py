"""Rankers whose kept epoch is 0: they are the start that they were given, whatever their loss is."""

from collections.abc import Sequence
from dataclasses import replace

from xmrank.report.inputs import TrialRecord
from xmrank.report.result_tables import ResultTable, TableRow, mark_best


def mark_kept_starts(tables: Sequence[ResultTable], trials: Sequence[TrialRecord]) -> list[ResultTable]:
    """The tables whose rows say how many of their rankers kept their start; where all did, nothing is a gain.

    Args:
        tables: the results.
        trials: the histories of the rankers.
    """
    marked = []
    for table in tables:
        rows = [_mark_row(row, [t for t in trials if t.direction == table.direction]) for row in table.rows]
        marked.append(replace(table, rows=tuple(mark_best(rows))))
    return marked


def _mark_row(row: TableRow, trials: Sequence[TrialRecord]) -> TableRow:
    if not row.trained_ranker:
        return row
    own = [trial for trial in trials if trial.loss == row.method]
    marked = replace(row, kept_start=sum(trial.best_epoch == 0 for trial in own), trials=len(own))
    cells = {metric: replace(cell, kept_start=marked.all_kept_start) for metric, cell in row.cells.items()}
    return replace(marked, cells=cells)
