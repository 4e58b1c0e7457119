"""Each method against the first stage, query by query: the tests behind the marks of the tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from xmrank.metrics import PairedTests, holm_correction, paired_differences, paired_tests, seed_spread
from xmrank.pages.wording import METRICS
from xmrank.protocols.method_names import FIRST_STAGE, REFINED
from xmrank.report.protocol_names import first_stage_protocol
from xmrank.report.result_tables import ResultTable, TableRow, TestedCell

CellKey = tuple[int, int, str, str]
"""A test of a cell: the table's number, the row's number, the metric, and the method it is compared with."""


@dataclass(frozen=True)
class SignFlips:
    """The random signs of the tests: how many draws, and their seed."""

    count: int
    seed: int


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
    tests: dict[CellKey, TestedCell] = {}
    for number, table in enumerate(tables):
        tests |= dict(_test_table(number, table, (path, baselines), split, image_of, draws))
    for protocol in dict.fromkeys(table.protocol for table in tables):
        family = [key for key in tests if tables[key[0]].protocol == protocol]
        corrected = holm_correction([tests[key].p for key in family])
        for key, p in zip(family, corrected, strict=True):
            tests[key] = replace(tests[key], corrected=float(p))
    return [_set_tests(number, table, tests) for number, table in enumerate(tables)]


def _set_tests(number: int, table: ResultTable, tests: Mapping[CellKey, TestedCell]) -> ResultTable:
    """A table whose cells have their tests."""
    rows = []
    for index, row in enumerate(table.rows):
        cells = {}
        for metric, cell in row.cells.items():
            test, refined_test = (tests.get((number, index, metric, method)) for method in (FIRST_STAGE, REFINED))
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
) -> Iterator[tuple[CellKey, TestedCell]]:
    """The tests of one table, with p not yet corrected."""
    methods = [(index, row) for index, row in enumerate(table.rows) if not row.first_stage]
    first = table.first_stage
    if not first or not methods:
        return
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
    pairs = [(index, row, first) for index, row in methods]
    if table.refined:
        pairs += [(index, row, table.refined) for index, row in methods if row.trained_ranker]
    differences = [
        paired_differences(stacked[index], stacked[table.rows.index(reference)]) for index, _, reference in pairs
    ]
    clusters = [image_of.get(query, query) for query in queries.get_level_values("query_id")]
    # All methods and metrics in one call: they are tested by the same random signs.
    tests = paired_tests(np.concatenate(differences, axis=1), clusters, draws=draws.count, seed=draws.seed)
    columns = [(*pair, metric) for pair in pairs for metric in metrics]
    for column, (index, row, reference, metric) in enumerate(columns):
        if metric in row.cells and metric in reference.cells and tests.queries[column]:
            key = number, index, metric, reference.method
            yield key, _make_test(tests, column, row, reference, metric)


def _make_test(tests: PairedTests, column: int, row: TableRow, reference: TableRow, metric: str) -> TestedCell:
    """The test of one cell; its corrected p is still p itself."""
    own, theirs = row.cells[metric].by_seed, reference.cells[metric]
    # The refined first stage has the rankers' seeds, and is compared seed by seed.
    level = np.array(theirs.by_seed) if len(theirs.by_seed) == len(own) else theirs.mean
    spread = seed_spread(np.array(own) - level)
    return TestedCell(
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
    frame = pq.read_table(path, columns=columns, filters=filters).to_pandas()
    if baselines is None:
        return frame
    # Both tables have the first stage; the evaluation's is kept.
    more = pq.read_table(baselines, columns=columns, filters=[*filters, ("method", "!=", FIRST_STAGE)]).to_pandas()
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
