"""Pairwise tests: the rankers against each other, by the same test as against the first stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from xmrank.metrics import holm_correction, paired_differences, paired_tests
from xmrank.pages.wording import ALPHA, MARKS
from xmrank.report.comparison import SignFlips, read_values, select_values, stack_values
from xmrank.report.result_tables import ResultTable, TableRow, deepest_tables
from xmrank.report.statistical_power import describe_power, find_smallest_p

SHOWN = ("hit@1", "hit@5", "hit@10")


@dataclass(frozen=True)
class PairwiseTest:
    """One method's mean minus another's on one metric.

    Attributes:
        p: corrected for all pairs and metrics of the protocol, both directions together.
    """

    difference: float
    p: float

    @property
    def mark(self) -> str:
        """▲ or ▼ where the difference is significant."""
        return MARKS[int(np.sign(self.difference)) if self.p < ALPHA else 0]


@dataclass(frozen=True)
class RankerPair:
    """Two rankers on the same queries.

    Attributes:
        tests: one for each of ``SHOWN``, of the first minus the second; None where no query counts.
    """

    first: str
    second: str
    tests: tuple[PairwiseTest | None, ...]


@dataclass(frozen=True)
class PairwiseTests:
    """All pairs of rankers on one protocol in one direction.

    Attributes:
        tests: how many tests its protocol has, both directions together; p is corrected for their number.
        smallest_p: the smallest p that a test can have, corrected as the others are.
    """

    protocol: str
    title: str
    pairs: tuple[RankerPair, ...]
    tests: int = 0
    smallest_p: float = 0.0

    @property
    def note(self) -> str:
        """That no difference can be significant, where that is so."""
        return describe_power(self.tests, self.smallest_p)

    @property
    def significant(self) -> int:
        """How many differences are significant."""
        return sum(bool(test and test.mark) for pair in self.pairs for test in pair.tests)


def compare_pairs(
    tables: Sequence[ResultTable], path: Path, split: str, image_of: Mapping[str, str], draws: SignFlips
) -> list[PairwiseTests]:
    """Test every pair of rankers of a table; of several depths of one gallery, only the deepest.

    Args:
        tables, path, split, image_of, draws: as of ``add_tests``.
    """
    tables = deepest_tables(tables)
    tested = []
    for table in tables:
        sizes = [len(_list_pairs(other)) for other in tables if other.protocol == table.protocol]
        scaled = draws.scale_to(sum(sizes) * len(SHOWN))
        tested.append(_test_table(table, path, split, image_of, scaled))
    return [_correct_p(one, tested) for one in tested if one.pairs]


def _test_table(
    table: ResultTable, path: Path, split: str, image_of: Mapping[str, str], draws: SignFlips
) -> PairwiseTests:
    """All pairs of one table, with p not yet corrected."""
    pairs = _list_pairs(table)
    rows = [row for row in table.rows if not (row.first_stage or row.refined)]
    if not pairs:
        return PairwiseTests(table.protocol, table.title, ())
    values = read_values(path, split, table, SHOWN)
    by_label = {row.label: select_values(values, row, table.protocol) for row in rows}
    # The same queries in the same order for all rankers, so that differences are query by query.
    queries = by_label[rows[0].label].columns
    stacked = {label: stack_values(frame.reindex(columns=queries), SHOWN) for label, frame in by_label.items()}
    differences = np.concatenate(
        [paired_differences(stacked[one.label], stacked[other.label]) for one, other in pairs], axis=1
    )
    clusters = [image_of.get(query, query) for query in queries.get_level_values("query_id")]
    # All pairs in one call: they are tested by the same random signs.
    result = paired_tests(differences, clusters, draws=draws.count, flips=draws.flips, seed=draws.seed)
    tests = [
        PairwiseTest(float(difference), float(p)) if counted else None
        for difference, p, counted in zip(result.difference, result.p, result.queries, strict=True)
    ]
    lowest = find_smallest_p(differences, clusters, draws.flips or draws.count)
    return PairwiseTests(table.protocol, table.title, _group_by_pair(pairs, tests), smallest_p=lowest)


def _list_pairs(table: ResultTable) -> list[tuple[TableRow, TableRow]]:
    """All pairs of rankers; against the refined first stage they are tested in the tables."""
    return list(combinations([row for row in table.rows if not (row.first_stage or row.refined)], 2))


def _group_by_pair(
    pairs: Sequence[tuple[TableRow, TableRow]], tests: Sequence[PairwiseTest | None]
) -> tuple[RankerPair, ...]:
    """Tests in the order pair, metric, as pairs."""
    width = len(SHOWN)
    return tuple(
        RankerPair(one.marked_label, other.marked_label, tuple(tests[number * width : (number + 1) * width]))
        for number, (one, other) in enumerate(pairs)
    )


def _correct_p(table: PairwiseTests, every: Sequence[PairwiseTests]) -> PairwiseTests:
    """The pairs of a table with p corrected over its protocol, both directions together."""
    family = []
    for other in every:
        if other.protocol == table.protocol:
            family += [test for pair in other.pairs for test in pair.tests if test]
    # By identity: two tests may have the same figures.
    corrected = dict(zip(map(id, family), holm_correction([test.p for test in family]), strict=True))
    pairs = []
    for pair in table.pairs:
        tests = tuple(test and replace(test, p=float(corrected[id(test)])) for test in pair.tests)
        pairs.append(replace(pair, tests=tests))
    # The first step of Holm multiplies the smallest p by the number of tests.
    return replace(table, pairs=tuple(pairs), tests=len(family), smallest_p=len(family) * table.smallest_p)
