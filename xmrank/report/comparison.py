"""Each method against the first stage, query by query: the tests behind the marks of the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from xmrank.config.method_names import FIRST_STAGE, REFINED
from xmrank.metrics import PairedTests, holm_correction, paired_differences, paired_tests, seed_spread
from xmrank.metrics.significance import EQUAL
from xmrank.pages.wording import METRICS
from xmrank.protocols.protocol_names import first_stage_protocol
from xmrank.report.result_tables import ComparedCell, ResultTable, TableRow
from xmrank.report.statistical_power import find_smallest_p
from xmrank.runtime.files import read_parquet

FLIPS_PER_TEST = 100
"""Sign flips for each test of a family, so that the smallest corrected p is a fifth of the level."""
CellKey = tuple[int, int, str, str]
"""A test of a cell: the table's number, the row's number, the metric, and the method it is compared with."""


@dataclass(frozen=True)
class SignFlips:
    """The random draws of the tests and intervals.

    Attributes:
        count: how many, at least.
        seed: of the draws.
        flips: sign flips of a test, where they are more than ``count``.
    """

    count: int
    seed: int
    flips: int | None = None

    def scale_to(self, tests: int) -> "SignFlips":
        """As many sign flips as a family of tests needs.

        The smallest p of n flips is 1 / (1 + n), and the correction multiplies it by the number of tests: with too few
        flips no difference could be significant, however large it is.
        """
        needed = FLIPS_PER_TEST * tests
        return replace(self, flips=needed) if needed > self.count else self


def add_tests(
    tables: Sequence[ResultTable],
    path: Path,
    split: str,
    image_of: Mapping[str, str],
    draws: SignFlips,
    baselines: Path | None = None,
) -> list[ResultTable]:
    """The tables with the test of every method's figure against the first stage's.

    Rankers are also tested against the refined first stage, where there is one. p is corrected (Holm) over all columns
    × methods of a protocol, both directions together.

    Args:
        tables: the results.
        path: the per-query values of the evaluation.
        split: only this split's values; all when empty.
        image_of: caption id → image id: queries about one image are one cluster.
        draws: of the tests.
        baselines: the per-query values of the baselines, if there are any.
    """
    tests: dict[CellKey, ComparedCell] = {}
    tested = list(tables)
    for protocol in dict.fromkeys(table.protocol for table in tables):
        numbers = [number for number, table in enumerate(tables) if table.protocol == protocol]
        scaled = draws.scale_to(sum(_count_tests(tables[number]) for number in numbers))
        parts = [_test_table(number, tables[number], (path, baselines), split, image_of, scaled) for number in numbers]
        own = dict(chain.from_iterable(part.tests for part in parts))
        corrected = holm_correction([test.p for test in own.values()])
        tests |= {key: replace(test, corrected=float(p)) for (key, test), p in zip(own.items(), corrected, strict=True)}
        # The first step of Holm multiplies the smallest p by the number of tests.
        for number, part in zip(numbers, parts, strict=True):
            lowest = len(own) * part.smallest_p
            tested[number] = _set_tests(
                number, replace(tables[number], tests=len(own), smallest_p=lowest), tests, part.twins
            )
    return tested


@dataclass(frozen=True)
class TableTests:
    """The tests of one table, with p not yet corrected.

    Attributes:
        tests: by cell.
        twins: metric → the metric that has the same values in every row, and whose tests are its own.
        smallest_p: the smallest p that one of them can have; 0 without a test.
    """

    tests: list[tuple[CellKey, ComparedCell]]
    twins: dict[str, str]
    smallest_p: float


def _list_pairs(table: ResultTable) -> list[tuple[int, TableRow, TableRow]]:
    """What is compared in a table: the row's number, the row, and the row it is compared with."""
    methods = [(index, row) for index, row in enumerate(table.rows) if not row.first_stage]
    pairs = [(index, row, table.first_stage) for index, row in methods if table.first_stage]
    if table.first_stage and table.refined:
        pairs += [(index, row, table.refined) for index, row in methods if row.trained_ranker]
    return pairs


def _count_tests(table: ResultTable) -> int:
    """How many tests a table has at most."""
    cells = table.first_stage.cells if table.first_stage else {}
    return len(_list_pairs(table)) * sum(metric in cells for metric in METRICS)


def _find_twins(stacked: Mapping[int, np.ndarray], metrics: Sequence[str]) -> dict[str, str]:
    """recall@k → hit@k where every list has one positive, so that both are the same values and one test."""
    twins = {}
    for recall in (metric for metric in metrics if metric.startswith("recall@")):
        hit = recall.replace("recall", "hit")
        if hit in metrics:
            columns = [metrics.index(name) for name in (hit, recall)]
            values = (array[..., columns] for array in stacked.values())
            if all(np.allclose(v[..., 0], v[..., 1], rtol=0, atol=EQUAL, equal_nan=True) for v in values):
                twins[recall] = hit
    return twins


def _set_tests(
    number: int, table: ResultTable, tests: Mapping[CellKey, ComparedCell], twins: Mapping[str, str]
) -> ResultTable:
    """A table whose cells have their tests."""
    rows = []
    for index, row in enumerate(table.rows):
        cells = {}
        for metric, cell in row.cells.items():
            name = twins.get(metric, metric)
            test, refined_test = (tests.get((number, index, name, method)) for method in (FIRST_STAGE, REFINED))
            cells[metric] = replace(cell, test=test, refined_test=refined_test)
        rows.append(replace(row, cells=cells))
    return replace(table, rows=tuple(rows))


def _test_table(
    number: int,
    table: ResultTable,
    paths: tuple[Path, Path | None],
    split: str,
    image_of: Mapping[str, str],
    draws: SignFlips,
) -> TableTests:
    """The tests of one table, with p not yet corrected."""
    first, pairs = table.first_stage, _list_pairs(table)
    if not first or not pairs:
        return TableTests([], {}, 0.0)
    metrics = [metric for metric in METRICS if metric in first.cells]
    values = read_values(paths[0], split, table, metrics, paths[1])
    queries = select_values(values, first, first_stage_protocol(table.protocol)).columns
    # The same queries in the same order as the first stage's, so that differences are query by query.
    stacked = {
        index: stack_values(
            select_values(values, row, row.figures_protocol(table.protocol)).reindex(columns=queries), metrics
        )
        for index, row in enumerate(table.rows)
    }
    twins = _find_twins(stacked, metrics)
    kept = [metrics.index(metric) for metric in metrics if metric not in twins]
    metrics = [metrics[column] for column in kept]
    stacked = {index: array[..., kept] for index, array in stacked.items()}
    differences = np.concatenate(
        [paired_differences(stacked[index], stacked[table.rows.index(reference)]) for index, _, reference in pairs],
        axis=1,
    )
    clusters = [image_of.get(query, query) for query in queries.get_level_values("query_id")]
    # All methods and metrics in one call: they are tested by the same random signs.
    tests = paired_tests(differences, clusters, draws=draws.count, flips=draws.flips, seed=draws.seed)
    columns = [(*pair, metric) for pair in pairs for metric in metrics]
    cells = []
    for column, (index, row, reference, metric) in enumerate(columns):
        if metric in row.cells and metric in reference.cells and tests.queries[column]:
            key = number, index, metric, reference.method
            cells.append((key, _make_test(tests, column, row, reference, metric)))
    lowest = find_smallest_p(differences, clusters, draws.flips or draws.count) if cells else 0.0
    return TableTests(cells, twins, lowest)


def _make_test(tests: PairedTests, column: int, row: TableRow, reference: TableRow, metric: str) -> ComparedCell:
    """The test of one cell; its corrected p is still p itself."""
    own, theirs = row.cells[metric].by_seed, reference.cells[metric]
    # The refined first stage has the rankers' seeds, and is compared seed by seed.
    level = np.array(theirs.by_seed) if len(theirs.by_seed) == len(own) else theirs.mean
    spread = seed_spread(np.array(own) - level)
    return ComparedCell(
        low=float(tests.low[column]),
        high=float(tests.high[column]),
        p=float(tests.p[column]),
        corrected=float(tests.p[column]),
        wins=int(tests.wins[column]),
        ties=int(tests.ties[column]),
        losses=int(tests.losses[column]),
        agreeing=spread.agreeing,
    )


def read_values(
    path: Path, split: str, table: ResultTable, metrics: Sequence[str], baselines: Path | None = None
) -> pd.DataFrame:
    """The per-query values of all methods of a table, the first stage's from the whole gallery of a top N."""
    protocols = {table.protocol, first_stage_protocol(table.protocol)}
    filters: list[tuple[str, str, object]] = [("direction", "==", table.direction), ("protocol", "in", protocols)]
    filters += [("metric", "in", set(metrics)), *([("split", "==", split)] if split else [])]
    columns = ["method", "ranker", "protocol", "seed", "metric", "query_id", "value"]
    frame = read_parquet(path, columns=columns, filters=filters).to_pandas()
    if baselines is None:
        return frame
    # Both tables have the first stage; the evaluation's is kept.
    more = read_parquet(baselines, columns=columns, filters=[*filters, ("method", "!=", FIRST_STAGE)]).to_pandas()
    frames = [part.astype({"method": str, "ranker": str, "protocol": str}) for part in (frame, more)]
    return pd.concat(frames)


def select_values(values: pd.DataFrame, row: TableRow, protocol: str) -> pd.DataFrame:
    """One method's values: rows are (seed, metric), columns (query, list); a query may have several lists."""
    own = (values["method"] == row.method) & (values["ranker"] == row.ranker) & (values["protocol"] == protocol)
    frame = values.loc[own, ["seed", "metric", "query_id", "value"]].astype({"metric": str, "query_id": str})
    frame["list"] = frame.groupby(["seed", "metric", "query_id"]).cumcount()
    return frame.set_index(["seed", "metric", "query_id", "list"])["value"].unstack(["query_id", "list"])


def stack_values(values: pd.DataFrame, metrics: Sequence[str]) -> np.ndarray:
    """The values of ``select_values`` as an array, float64 [seeds, queries, metrics]."""
    seeds = sorted(values.index.unique("seed"))
    wide = values.reindex(pd.MultiIndex.from_product([seeds, metrics], names=["seed", "metric"]))
    return wide.to_numpy(float).reshape(len(seeds), len(metrics), -1).transpose(0, 2, 1)
