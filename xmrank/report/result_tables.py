"""Result tables from per-query values: first the mean over queries, then mean and deviation over seeds."""

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
    format_points,
    format_probability,
    method_name,
    metric_name,
)
from xmrank.protocols.method_names import BASELINE, FIRST_STAGE, ORACLE
from xmrank.report.inputs import loss_sort_key
from xmrank.report.protocol_names import first_stage_protocol, protocol_name, reranking_depth, shown_protocols

KEYS = ["protocol", "direction", "method", "ranker", "metric", "seed"]
CSV_COLUMNS = (
    *("protocol", "direction", "split", "method", "ranker", "metric"),
    *("mean_percent", "std_percent", "difference_points", "seeds", "queries", "excluded", "best"),
    *("ci_low_points", "ci_high_points", "p", "p_holm", "significant", "wins", "ties", "losses", "seeds_agreeing"),
)


@dataclass(frozen=True)
class TestedCell:
    """The test of a figure against the first stage's.

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
        p, corrected = format_probability(self.p), format_probability(self.corrected)
        return (
            f"95 % interval {format_points(self.low)} to {format_points(self.high)}, p {p}, corrected {corrected}; "
            f"better in {self.wins:,}, equal in {self.ties:,}, worse in {self.losses:,} queries; "
            f"{self.agreeing} of the seeds agree"
        )


@dataclass(frozen=True)
class TableCell:
    """One figure of one method, from 0 to 1.

    Attributes:
        by_seed: each seed's mean over its queries, seeds in ascending order.
        queries: queries that count, for each seed.
        excluded: queries without a relevant item in what is ranked, for each seed.
        difference: the mean minus the first stage's; None for the first stage itself.
        best: whether it is the best of its column, as printed.
        test: of the difference; None where it was not tested.
    """

    by_seed: tuple[float, ...]
    queries: int
    excluded: int
    difference: float | None = None
    best: bool = False
    test: TestedCell | None = None

    @property
    def outcome(self) -> int:
        """1: significantly above the first stage, −1: below, 0: neither, or not tested."""
        if self.test is None or not self.test.significant:
            return 0
        return 1 if (self.difference or 0.0) > 0 else -1

    @property
    def mark(self) -> str:
        """▲ or ▼ where the difference is significant."""
        return MARKS[self.outcome]

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
    """One method's figures; ``cells`` has only the metrics that were measured."""

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
        """Whether it is a baseline: it ranks whole galleries, in a space of its own."""
        return self.ranker == BASELINE

    @property
    def trained_ranker(self) -> bool:
        """Whether it re-ranks the first stage's candidates."""
        return not (self.first_stage or self.baseline)

    def figures_protocol(self, protocol: str) -> str:
        """The protocol of its figures in the table of a protocol: only rankers re-rank a top N."""
        return protocol if self.trained_ranker else first_stage_protocol(protocol)


@dataclass(frozen=True)
class ResultTable:
    """All methods on one protocol in one direction, the first stage first.

    Attributes:
        ceiling: the best that a re-ranking could be; None where the protocol has none.
    """

    protocol: str
    direction: str
    rows: tuple[TableRow, ...]
    ceiling: TableRow | None = None

    @property
    def title(self) -> str:
        """The protocol and the direction."""
        return f"{protocol_name(self.protocol)}: {DIRECTION_NAMES.get(self.direction, self.direction)}"

    @property
    def first_stage(self) -> TableRow | None:
        """The first stage's row."""
        return next((row for row in self.rows if row.first_stage), None)

    @property
    def query_counts(self) -> list[int]:
        """The different numbers of queries behind the rows' means; a single one where the rows can be compared."""
        # Rankers and the first stage rank different lists, which may exclude different queries.
        return sorted({cell.queries for cell in self.all_cells()})

    @property
    def excluded(self) -> int:
        """The largest number of queries that a row excludes."""
        return max((cell.excluded for cell in self.all_cells()), default=0)

    def all_cells(self) -> list[TableCell]:
        """The cells of all rows."""
        return [cell for row in self.rows for cell in row.cells.values()]


def read_seed_means(path: Path, split: str, baselines: Path | None = None) -> pd.DataFrame:
    """The mean over queries of every method, seed and metric.

    Args:
        path: the table of per-query values.
        split: only this split's; all when empty.
        baselines: the table of the baselines, if there is one; its first stage is left out, the other table has it.

    Returns:
        A row for each of ``KEYS``, with the columns mean (NaN when every query is excluded), queries and excluded.
    """
    parts = []
    for frame in _read_batches(path, baselines):
        if split:
            frame = frame[frame["split"] == split]
        # Sums and counts can be added over batches, means cannot. "count" leaves out NaN, "size" does not.
        groups = frame.groupby(KEYS, observed=True)["value"]
        part = groups.agg(["sum", "count", "size"]).reset_index()
        parts.append(part.astype({key: str for key in KEYS if key != "seed"}))
    if not parts:
        return pd.DataFrame(columns=[*KEYS, "mean", "queries", "excluded"])
    sums = pd.concat(parts).groupby(KEYS)[["sum", "count", "size"]].sum().reset_index()
    # NaN and not 0 where every query is excluded.
    sums["mean"] = sums["sum"] / sums["count"].where(sums["count"] > 0)
    sums["excluded"] = sums["size"] - sums["count"]
    return sums.rename(columns={"count": "queries"})[[*KEYS, "mean", "queries", "excluded"]]


def _read_batches(path: Path, baselines: Path | None) -> Iterator[pd.DataFrame]:
    """The values, batch by batch: a table has one row for each query, metric and method."""
    for source in (path, *([baselines] if baselines else [])):
        for batch in pq.ParquetFile(source).iter_batches(batch_size=1 << 20, columns=[*KEYS, "split", "value"]):
            frame = batch.to_pandas()
            yield frame if source is path else frame[frame["method"] != FIRST_STAGE]


def make_tables(means: pd.DataFrame, losses: Sequence[str] = ()) -> list[ResultTable]:
    """One table for each protocol and direction.

    Args:
        means: what ``read_seed_means`` gives.
        losses: the order of the rows after the first stage's.
    """
    # The oracle is no method: its figures become the ceiling under a table.
    best = means[means["method"] == ORACLE]
    means = means[means["method"] != ORACLE]
    by_rankers = means.loc[~_ranks_whole_gallery(means), "protocol"]
    directions = [d for d in DIRECTIONS if d in set(means["direction"])]
    tables = []
    for protocol in shown_protocols(by_rankers, means["protocol"]):
        for direction in directions:
            table = _make_table(means[means["direction"] == direction], protocol, direction, list(losses))
            # The gallery of one direction may be too small for an N of the other: then no ranker re-ranks it.
            re_ranked = any(row.trained_ranker for row in table.rows)
            if table.rows and (re_ranked or not reranking_depth(protocol)):
                tables.append(replace(table, ceiling=_oracle_row(best, table)))
    return tables


def deepest_tables(tables: Sequence[ResultTable]) -> list[ResultTable]:
    """The tables; of several depths of one gallery and direction, only the deepest."""
    depths: dict[tuple[str, str], int] = {}
    for table in tables:
        gallery = first_stage_protocol(table.protocol), table.direction
        depths[gallery] = max(depths.get(gallery, 0), reranking_depth(table.protocol))
    return [t for t in tables if reranking_depth(t.protocol) == depths[first_stage_protocol(t.protocol), t.direction]]


def _oracle_row(best: pd.DataFrame, table: ResultTable) -> TableRow | None:
    here = best[(best["protocol"] == table.protocol) & (best["direction"] == table.direction)]
    return None if here.empty else TableRow(ORACLE, "", CEILING, _make_cells(here))


def _ranks_whole_gallery(means: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are of methods that rank whole galleries: the first stage and the baselines."""
    return (means["method"] == FIRST_STAGE) | (means["ranker"] == BASELINE)


def _make_table(means: pd.DataFrame, protocol: str, direction: str, losses: list[str]) -> ResultTable:
    # Rankers by their figures on the top N, the others by those on its whole gallery.
    whole = _ranks_whole_gallery(means)
    here = means[
        (whole & (means["protocol"] == first_stage_protocol(protocol))) | (~whole & (means["protocol"] == protocol))
    ]
    several = here.loc[~_ranks_whole_gallery(here), "ranker"].nunique() > 1
    rows = []
    for (method, ranker), group in here.groupby(["method", "ranker"]):
        label = method_name(str(method))
        # The ranker is named only where it tells two rows of one loss apart.
        if several and ranker not in ("", BASELINE):
            label += f" ({ranker})"
        rows.append(TableRow(str(method), str(ranker), label, _make_cells(group)))
    # First the first stage, then baselines, then rankers; each by the order of the losses.
    rows.sort(key=lambda row: (not row.first_stage, row.trained_ranker, loss_sort_key(row.method, losses), row.ranker))
    return ResultTable(protocol, direction, tuple(_mark_best(_add_differences(rows))))


def _make_cells(group: pd.DataFrame) -> dict[str, TableCell]:
    cells = {}
    # A seed whose queries are all excluded has no mean.
    for metric, part in group.dropna(subset=["mean"]).sort_values("seed").groupby("metric"):
        cells[str(metric)] = TableCell(tuple(part["mean"]), int(part["queries"].max()), int(part["excluded"].max()))
    return cells


def _add_differences(rows: list[TableRow]) -> list[TableRow]:
    """The rows with every method's difference to the first stage."""
    first = next((row.cells for row in rows if row.first_stage), {})
    compared = []
    for row in rows:
        cells = dict(row.cells)
        if not row.first_stage:
            for metric in cells.keys() & first.keys():
                cells[metric] = replace(cells[metric], difference=cells[metric].mean - first[metric].mean)
        compared.append(replace(row, cells=cells))
    return compared


def _mark_best(rows: list[TableRow]) -> list[TableRow]:
    """The rows with the best of each column marked; figures that are printed alike are all the best."""
    if len(rows) < 2:
        return rows
    # Compared as they are printed, with three digits of the fraction.
    best: dict[str, float] = {}
    for row in rows:
        for metric, cell in row.cells.items():
            best[metric] = max(best.get(metric, 0.0), round(cell.mean, 3))
    marked = []
    for row in rows:
        cells = {metric: replace(cell, best=round(cell.mean, 3) == best[metric]) for metric, cell in row.cells.items()}
        marked.append(replace(row, cells=cells))
    return marked


def render_csv(tables: Sequence[ResultTable], split: str) -> str:
    """All figures in percent, one for each line, for a spreadsheet or another program."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        # The ceiling is a row like any other here.
        for row in (*table.rows, *([table.ceiling] if table.ceiling else [])):
            names = [row.figures_protocol(table.protocol), table.direction, split, row.method, row.ranker]
            writer.writerows(
                [*names, *_csv_columns(metric, row.cells[metric])] for metric in METRICS if metric in row.cells
            )
    return sink.getvalue()


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
