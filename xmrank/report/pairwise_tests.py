"""The rankers against each other: which loss is better than which, by the same tests as against the first stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from xmrank.metrics import holm_correction, paired_differences, paired_tests
from xmrank.pages.wording import ALPHA, MARKS
from xmrank.report.comparison import SignFlips, read_values, stacked, values_of
from xmrank.report.result_tables import ResultTable, TableRow, deepest

SHOWN = ("hit@1", "hit@5", "hit@10")


@dataclass(frozen=True)
class PairwiseTest:
    """One method's mean minus another's.

    Attributes:
        p: corrected for all pairs and columns of the protocol, both directions together.
    """

    difference: float
    p: float

    @property
    def mark(self) -> str:
        """▲ or ▼ where the difference is significant."""
        return MARKS[int(np.sign(self.difference)) if self.p < ALPHA else 0]


@dataclass(frozen=True)
class PairwiseTests:
    """All pairs of one protocol in one direction: their labels, and a figure for each of ``SHOWN``."""

    protocol: str
    title: str
    pairs: tuple[tuple[str, str, tuple[PairwiseTest | None, ...]], ...]

    @property
    def found(self) -> int:
        """How many differences are significant."""
        return sum(bool(duel and duel.mark) for *_, duels in self.pairs for duel in duels)


def rivals_of(
    tables: Sequence[ResultTable], path: Path, split: str, image_of: Mapping[str, str], draws: SignFlips
) -> list[PairwiseTests]:
    """Test every pair of rankers of a table, of several depths of one gallery the deepest.

    Args:
        tables, path, split, image_of, draws: as of ``with_tests``.
    """
    found = [_pairs(table, path, split, image_of, draws) for table in deepest(tables)]
    return [_corrected(rivals, found) for rivals in found if rivals.pairs]


def _pairs(table: ResultTable, path: Path, split: str, image_of: Mapping[str, str], draws: SignFlips) -> PairwiseTests:
    rows = [row for row in table.rows if not row.first_stage]
    pairs = list(combinations(rows, 2))
    if not pairs:
        return PairwiseTests(table.protocol, table.title, ())
    values = read_values(path, split, table, SHOWN)
    wide = {row.label: values_of(values, row, table.protocol) for row in rows}
    queries = wide[rows[0].label].columns
    every = {label: stacked(frame.reindex(columns=queries), SHOWN) for label, frame in wide.items()}
    differences = [paired_differences(every[one.label], every[other.label]) for one, other in pairs]
    clusters = [image_of.get(query, query) for query in queries.get_level_values("query_id")]
    tests = paired_tests(np.concatenate(differences, axis=1), clusters, draws=draws.count, seed=draws.seed)
    duels = [
        PairwiseTest(float(d), float(p)) if counted else None
        for d, p, counted in zip(tests.difference, tests.p, tests.queries, strict=True)
    ]
    return PairwiseTests(table.protocol, table.title, tuple(_cut(pairs, duels)))


def _cut(
    pairs: list[tuple[TableRow, TableRow]], duels: list[PairwiseTest | None]
) -> list[tuple[str, str, tuple[PairwiseTest | None, ...]]]:
    width = len(SHOWN)
    return [
        (one.label, other.label, tuple(duels[place * width : (place + 1) * width]))
        for place, (one, other) in enumerate(pairs)
    ]


def _corrected(rivals: PairwiseTests, every: Sequence[PairwiseTests]) -> PairwiseTests:
    """The pairs with p corrected over the protocol's family."""
    family = [
        duel for one in every if one.protocol == rivals.protocol for *_, duels in one.pairs for duel in duels if duel
    ]
    p_of = dict(zip(map(id, family), holm_correction([duel.p for duel in family]), strict=True))
    return replace(
        rivals,
        pairs=tuple(
            (one, other, tuple(duel and replace(duel, p=float(p_of[id(duel)])) for duel in duels))
            for one, other, duels in rivals.pairs
        ),
    )
