"""From per-query values to result tables: the mean over queries first, then mean and deviation over seeds."""

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from xmrank.config import DIRECTIONS
from xmrank.pages.wording import (
    ALPHA,
    CEILING,
    DIRECTION_NAMES,
    MARKS,
    METRICS,
    method_name,
    metric_name,
    points,
    probability,
)
from xmrank.protocols.method_names import BASELINE, FIRST_STAGE, ORACLE
from xmrank.report.inputs import order_of
from xmrank.report.protocol_names import baseline_protocol, depth_of, protocol_name, shown_protocols

KEYS = ["protocol", "direction", "method", "ranker", "metric", "seed"]
CSV_COLUMNS = (
    *("protocol", "direction", "split", "method", "ranker", "metric"),
    *("mean_percent", "std_percent", "difference_points", "seeds", "queries", "excluded", "best"),
    *("ci_low_points", "ci_high_points", "p", "p_holm", "significant", "wins", "ties", "losses", "seeds_agreeing"),
)


@dataclass(frozen=True)
class TestedCell:
    """A figure tested against the first stage's.

    Attributes:
        low, high: 95 % interval of the difference.
        p: two-sided, and corrected for all comparisons of the protocol.
        wins, ties, losses: queries by the sign of their difference.
        agreeing: seeds in which the difference has the sign of the mean.
    """

    low: float
    high: float
    p: float
    corrected: float
    wins: int
    ties: int
    losses: int
    agreeing: int

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below the level."""
        return self.corrected < ALPHA

    @property
    def words(self) -> str:
        """The test in a phrase."""
        return (
            f"95 % interval {points(self.low)} to {points(self.high)}, p {probability(self.p)}, corrected "
            f"{probability(self.corrected)}; better in {self.wins:,}, equal in {self.ties:,}, worse in "
            f"{self.losses:,} queries; {self.agreeing} of the seeds agree"
        )


@dataclass(frozen=True)
class TableCell:
    """One figure of one method, as a share.

    Attributes:
        by_seed: a seed's mean over its queries, seeds in ascending order.
        queries: queries that count, a seed.
        excluded: queries without anything relevant in what is ranked, a seed.
        difference: distance of the mean from the first stage's; None for the first stage itself.
        best: whether it is the best of its column, as printed.
        test: of the difference; None where nothing was tested.
    """

    by_seed: tuple[float, ...]
    queries: int
    excluded: int
    difference: float | None = None
    best: bool = False
    test: TestedCell | None = None

    @property
    def verdict(self) -> int:
        """1: significantly above the first stage, −1: below, 0: neither, or not tested."""
        if self.test is None or not self.test.significant:
            return 0
        return 1 if (self.difference or 0.0) > 0 else -1

    @property
    def mark(self) -> str:
        """The verdict as a sign."""
        return MARKS[self.verdict]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.by_seed)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (n − 1); None for one seed."""
        return statistics.stdev(self.by_seed) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class TableRow:
    """One method's figures; ``cells`` holds a metric only where it was measured."""

    method: str
    ranker: str
    label: str
    cells: dict[str, TableCell]

    @property
    def first_stage(self) -> bool:
        """Whether this is the encoder's own ranking."""
        return self.method == FIRST_STAGE

    @property
    def baseline(self) -> bool:
        """Whether it ranks whole galleries as the first stage does, in a space of its own."""
        return self.ranker == BASELINE

    @property
    def trained_ranker(self) -> bool:
        """Whether it re-ranks what the first stage found."""
        return not (self.first_stage or self.baseline)

    def place(self, protocol: str) -> str:
        """Where its figures stand for a protocol: a top N is re-ranked by rankers alone."""
        return protocol if self.trained_ranker else baseline_protocol(protocol)


@dataclass(frozen=True)
class ResultTable:
    """All methods on one protocol in one direction, the first stage first.

    Attributes:
        ceiling: the best that a re-ranking could be; None where the protocol knows of none.
    """

    protocol: str
    direction: str
    rows: tuple[TableRow, ...]
    ceiling: TableRow | None = None

    @property
    def title(self) -> str:
        """What is ranked, and who asks for what."""
        return f"{protocol_name(self.protocol)}: {DIRECTION_NAMES.get(self.direction, self.direction)}"

    @property
    def first_stage(self) -> TableRow | None:
        """The first stage's row."""
        return next((row for row in self.rows if row.first_stage), None)

    @property
    def query_counts(self) -> list[int]:
        """The different numbers of queries that the rows' means are over: one number when they can be compared."""
        return sorted({cell.queries for row in self.rows for cell in row.cells.values()})

    @property
    def excluded(self) -> int:
        """Most queries that any row leaves out."""
        return max((cell.excluded for row in self.rows for cell in row.cells.values()), default=0)


def seed_means(path: Path, split: str, baselines: Path | None = None) -> pd.DataFrame:
    """The mean over queries of every method, seed and metric.

    Args:
        path: the table of per-query values.
        split: only this split's; all when empty.
        baselines: the table of the baselines, if there is one; its first stage is that of the other.

    Returns:
        A row for each of ``KEYS``, with the columns mean (NaN when every query is excluded), queries and excluded.
    """
    parts = []
    for frame in _frames(path, baselines):
        if split:
            frame = frame[frame["split"] == split]
        groups = frame.groupby(KEYS, observed=True)["value"]
        part = groups.agg(["sum", "count", "size"]).reset_index()
        parts.append(part.astype({key: str for key in KEYS if key != "seed"}))
    if not parts:
        return pd.DataFrame(columns=[*KEYS, "mean", "queries", "excluded"])
    sums = pd.concat(parts).groupby(KEYS)[["sum", "count", "size"]].sum().reset_index()
    sums["mean"] = sums["sum"] / sums["count"].where(sums["count"] > 0)
    sums["excluded"] = sums["size"] - sums["count"]
    return sums.rename(columns={"count": "queries"})[[*KEYS, "mean", "queries", "excluded"]]


def _frames(path: Path, baselines: Path | None) -> Iterator[pd.DataFrame]:
    """The values, a batch at a time: the tables have a row for each query, metric and method."""
    for place in (path, *([baselines] if baselines else [])):
        for batch in pq.ParquetFile(place).iter_batches(batch_size=1 << 20, columns=[*KEYS, "split", "value"]):
            frame = batch.to_pandas()
            yield frame if place is path else frame[frame["method"] != FIRST_STAGE]


def result_tables(means: pd.DataFrame, losses: Sequence[str] = ()) -> list[ResultTable]:
    """One table a protocol and direction.

    Args:
        means: what ``seed_means`` gives.
        losses: the order of the rows behind the first stage's.
    """
    best = means[means["method"] == ORACLE]
    means = means[means["method"] != ORACLE]
    ranked = means.loc[~_searching(means), "protocol"]
    directions = [d for d in DIRECTIONS if d in set(means["direction"])]
    tables = [
        _table(means[means["direction"] == direction], protocol, direction, list(losses))
        for protocol in shown_protocols(ranked, means["protocol"])
        for direction in directions
    ]
    # One direction's gallery may be too small for an N of the other's: nothing re-ranks it there.
    shown = [
        table
        for table in tables
        if table.rows and (not depth_of(table.protocol) or any(row.trained_ranker for row in table.rows))
    ]
    return [replace(table, ceiling=_ceiling(best, table)) for table in shown]


def deepest(tables: Sequence[ResultTable]) -> list[ResultTable]:
    """The tables without those that re-rank less of a gallery than another one does."""
    depths: dict[tuple[str, str], int] = {}
    for table in tables:
        place = baseline_protocol(table.protocol), table.direction
        depths[place] = max(depths.get(place, 0), depth_of(table.protocol))
    return [t for t in tables if depth_of(t.protocol) == depths[baseline_protocol(t.protocol), t.direction]]


def _ceiling(best: pd.DataFrame, table: ResultTable) -> TableRow | None:
    here = best[(best["protocol"] == table.protocol) & (best["direction"] == table.direction)]
    return None if here.empty else TableRow(ORACLE, "", CEILING, _cells(here))


def _searching(means: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are of methods that search galleries whole: the first stage and the baselines."""
    return (means["method"] == FIRST_STAGE) | (means["ranker"] == BASELINE)


def _table(means: pd.DataFrame, protocol: str, direction: str, losses: list[str]) -> ResultTable:
    whole = _searching(means)
    here = means[
        (whole & (means["protocol"] == baseline_protocol(protocol))) | (~whole & (means["protocol"] == protocol))
    ]
    several = here.loc[~_searching(here), "ranker"].nunique() > 1
    rows = [
        TableRow(
            str(method),
            str(ranker),
            f"{method_name(str(method))} ({ranker})"
            if several and ranker not in ("", BASELINE)
            else method_name(str(method)),
            _cells(group),
        )
        for (method, ranker), group in here.groupby(["method", "ranker"])
    ]
    rows.sort(key=lambda row: (not row.first_stage, row.trained_ranker, order_of(row.method, losses), row.ranker))
    return ResultTable(protocol, direction, tuple(_marked(_compared(rows))))


def _cells(group: pd.DataFrame) -> dict[str, TableCell]:
    cells = {}
    for metric, part in group.dropna(subset=["mean"]).sort_values("seed").groupby("metric"):
        cells[str(metric)] = TableCell(tuple(part["mean"]), int(part["queries"].max()), int(part["excluded"].max()))
    return cells


def _compared(rows: list[TableRow]) -> list[TableRow]:
    """The rows with every ranker's distance from the first stage."""
    first = next((row.cells for row in rows if row.first_stage), {})
    return [
        row
        if row.first_stage
        else replace(
            row,
            cells={
                metric: replace(cell, difference=cell.mean - first[metric].mean) if metric in first else cell
                for metric, cell in row.cells.items()
            },
        )
        for row in rows
    ]


def _marked(rows: list[TableRow]) -> list[TableRow]:
    """The rows with the best of each column marked; figures that print alike are best together."""
    if len(rows) < 2:
        return rows
    best: dict[str, float] = {}
    for row in rows:
        for metric, cell in row.cells.items():
            best[metric] = max(best.get(metric, 0.0), round(cell.mean, 3))
    return [
        replace(row, cells={m: replace(cell, best=round(cell.mean, 3) == best[m]) for m, cell in row.cells.items()})
        for row in rows
    ]


def to_csv(tables: Sequence[ResultTable], split: str) -> str:
    """All figures, one a line, in percent, for a spreadsheet or another program."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for row in (*table.rows, *([table.ceiling] if table.ceiling else [])):
            names = [row.place(table.protocol), table.direction, split, row.method, row.ranker]
            writer.writerows([*names, *_line(metric, row.cells[metric])] for metric in METRICS if metric in row.cells)
    return sink.getvalue()


def _line(metric: str, cell: TableCell) -> list[str | int]:
    """The columns of one figure, from the metric on."""
    figures = [_figure(value) for value in (cell.mean, cell.deviation, cell.difference)]
    counts = [len(cell.by_seed), cell.queries, cell.excluded, int(cell.best)]
    test = cell.test
    if test is None:
        return [metric_name(metric), *figures, *counts, *[""] * 9]
    tested = [_figure(test.low), _figure(test.high), f"{test.p:.6g}", f"{test.corrected:.6g}"]
    tallies = [int(test.significant), test.wins, test.ties, test.losses, test.agreeing]
    return [metric_name(metric), *figures, *counts, *tested, *tallies]


def _figure(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.4f}"
