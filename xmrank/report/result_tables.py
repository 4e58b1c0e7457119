"""Result tables: the figures of all methods on one protocol in one direction, mean and deviation over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from xmrank.config.method_names import BASELINE, FIRST_STAGE, REFINED
from xmrank.metrics.significance import EQUAL
from xmrank.pages.wording import (
    ALPHA,
    DIRECTION_NAMES,
    MARKS,
    METRIC_GROUPS,
    format_points,
    format_probability,
)
from xmrank.protocols.protocol_names import first_stage_protocol, protocol_name, reranking_depth


@dataclass(frozen=True)
class ComparedCell:
    """The test of a figure against the first stage's, or against the refined first stage's.

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
        refined_difference, refined_test: the same against the refined first stage; None where there is none.
        kept_start: whether the rankers of every seed kept their start: the difference is no gain of their loss.
    """

    by_seed: tuple[float, ...]
    queries: int
    excluded: int
    difference: float | None = None
    best: bool = False
    test: ComparedCell | None = None
    refined_difference: float | None = None
    refined_test: ComparedCell | None = None
    kept_start: bool = False

    @property
    def outcome(self) -> int:
        """1: significantly above the first stage, −1: below, 0: neither, not tested, or not by its loss."""
        return 0 if self.kept_start else _outcome(self.test, self.difference)

    @property
    def refined_outcome(self) -> int:
        """1: significantly above the refined first stage, −1: below, 0: neither, not tested, or not by its loss."""
        return 0 if self.kept_start else _outcome(self.refined_test, self.refined_difference)

    @property
    def refined_mark(self) -> str:
        """▲ or ▼ where the difference to the refined first stage is significant."""
        return MARKS[self.refined_outcome]

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


def _outcome(test: ComparedCell | None, difference: float | None) -> int:
    if test is None or not test.significant:
        return 0
    return 1 if (difference or 0.0) > 0 else -1


@dataclass(frozen=True)
class TableRow:
    """One method's figures; ``cells`` has only the metrics that were measured.

    Attributes:
        kept_start: how many of its rankers kept epoch 0, and so are the start that they were given.
        trials: how many rankers it has; 0 where no history is known.
    """

    method: str
    ranker: str
    label: str
    cells: dict[str, TableCell]
    kept_start: int = 0
    trials: int = 0

    @property
    def marked_label(self) -> str:
        """The label, with the mark of rankers that kept their start."""
        return self.label + self.kept_mark

    @property
    def kept_mark(self) -> str:
        """The mark of rankers that kept their start; empty where none did."""
        if not self.kept_start:
            return ""
        part = "" if self.all_kept_start else f" in {self.kept_start} of {self.trials} seeds"
        return f" (kept its start{part})"

    @property
    def all_kept_start(self) -> bool:
        """Whether its loss changed nothing in any seed."""
        return 0 < self.kept_start == self.trials

    @property
    def refined(self) -> bool:
        """Whether this is the refined first stage."""
        return self.method == REFINED

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
        """Whether it re-ranks the first stage's candidates by what it learned with a loss."""
        return self.re_ranks and not self.refined

    @property
    def re_ranks(self) -> bool:
        """Whether it re-ranks the first stage's candidates."""
        return not (self.first_stage or self.baseline)

    def figures_protocol(self, protocol: str) -> str:
        """The protocol of its figures in the table of a protocol: only rankers re-rank a top N."""
        return protocol if self.re_ranks else first_stage_protocol(protocol)


@dataclass(frozen=True)
class ResultTable:
    """All methods on one protocol in one direction, the first stage first.

    Attributes:
        ceiling: the best that a re-ranking could be; None where the protocol has none.
        tests: how many tests its protocol has, both directions together; p is corrected for their number.
        smallest_p: the smallest corrected p that a test of this table can have.
    """

    protocol: str
    direction: str
    rows: tuple[TableRow, ...]
    ceiling: TableRow | None = None
    tests: int = 0
    smallest_p: float = 0.0

    @property
    def title(self) -> str:
        """The protocol and the direction."""
        return f"{protocol_name(self.protocol)}: {DIRECTION_NAMES.get(self.direction, self.direction)}"

    @property
    def first_stage(self) -> TableRow | None:
        """The first stage's row."""
        return next((row for row in self.rows if row.first_stage), None)

    @property
    def refined(self) -> TableRow | None:
        """The refined first stage's row; None where no ranker has a refinement."""
        return next((row for row in self.rows if row.refined), None)

    @property
    def metric_groups(self) -> list[tuple[str, tuple[str, ...]]]:
        """The columns in groups; recall@k and hit@k are shown once where every list has one right answer."""
        if not self._has_one_positive():
            return list(METRIC_GROUPS)
        (hit, hits), (recall, _), others = METRIC_GROUPS
        return [(f"{hit} = {recall}", hits), others]

    def _has_one_positive(self) -> bool:
        """Whether recall@k is hit@k in all rows."""
        rows = [*self.rows, *([self.ceiling] if self.ceiling else [])]
        pairs = list(zip(METRIC_GROUPS[0][1], METRIC_GROUPS[1][1], strict=True))
        cells = [(row.cells.get(hit), row.cells.get(recall)) for row in rows for hit, recall in pairs]
        return bool(cells) and all(hit and recall and _are_equal(hit, recall) for hit, recall in cells)

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


def _are_equal(one: TableCell, other: TableCell) -> bool:
    """Whether two cells hold the same figures."""
    pairs = list(zip(one.by_seed, other.by_seed, strict=False))
    return len(one.by_seed) == len(other.by_seed) and all(abs(a - b) <= EQUAL for a, b in pairs)


def deepest_tables(tables: Sequence[ResultTable]) -> list[ResultTable]:
    """The tables; of several depths of one gallery and direction, only the deepest."""
    depths: dict[tuple[str, str], int] = {}
    for table in tables:
        gallery = first_stage_protocol(table.protocol), table.direction
        depths[gallery] = max(depths.get(gallery, 0), reranking_depth(table.protocol))
    return [t for t in tables if reranking_depth(t.protocol) == depths[first_stage_protocol(t.protocol), t.direction]]


def mark_best(rows: Sequence[TableRow]) -> list[TableRow]:
    """The rows with the best of each column marked; figures that are printed alike are all the best.

    Rows whose rankers all kept their start do not compete: their loss has no part in their figures.
    """
    if len(rows) < 2:
        return list(rows)
    # Compared as they are printed, with three digits of the fraction.
    best: dict[str, float] = {}
    for row in rows:
        for metric, cell in row.cells.items() if not row.all_kept_start else ():
            best[metric] = max(best.get(metric, 0.0), round(cell.mean, 3))
    marked = []
    for row in rows:
        cells = {
            metric: replace(cell, best=not row.all_kept_start and round(cell.mean, 3) == best[metric])
            for metric, cell in row.cells.items()
        }
        marked.append(replace(row, cells=cells))
    return marked
