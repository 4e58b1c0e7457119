"""Each method against the first stage, query by query: the tests behind the marks of the tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from xmrank.metrics import holm_correction, paired_differences, paired_tests, seed_spread
from xmrank.pages.wording import METRICS
from xmrank.protocols.method_names import FIRST_STAGE
from xmrank.report.protocol_names import baseline_protocol
from xmrank.report.result_tables import ResultTable, TableRow, TestedCell

Place = tuple[int, int, str]
"""Of a cell: the table's number, the row's, the metric."""


@dataclass(frozen=True)
class SignFlips:
    """How the tests draw: their number, and the seed."""

    count: int
    seed: int


def with_tests(
    tables: Sequence[ResultTable],
    path: Path,
    split: str,
    image_of: Mapping[str, str],
    draws: SignFlips,
    baselines: Path | None = None,
) -> list[ResultTable]:
    """The tables with the test of every method's figure against the first stage's.

    p is corrected (Holm) over all columns × methods of a protocol, both directions together.

    Args:
        tables: the results.
        path: the per-query values that they are of.
        split: only this split's values; all when empty.
        image_of: caption id → image id: queries about one image are one cluster.
        draws: of the tests.
        baselines: the per-query values of the baselines, if there are any.
    """
    found: dict[Place, TestedCell] = {}
    for number, table in enumerate(tables):
        found |= dict(_tests_of(number, table, (path, baselines), split, image_of, draws))
    for protocol in dict.fromkeys(table.protocol for table in tables):
        family = [place for place in found if tables[place[0]].protocol == protocol]
        for place, p in zip(family, holm_correction([found[place].p for place in family]), strict=True):
            found[place] = replace(found[place], corrected=float(p))
    return [
        replace(table, rows=tuple(_with(row, number, place, found) for place, row in enumerate(table.rows)))
        for number, table in enumerate(tables)
    ]


def _with(row: TableRow, table: int, number: int, found: Mapping[Place, TestedCell]) -> TableRow:
    cells = {metric: replace(cell, test=found.get((table, number, metric))) for metric, cell in row.cells.items()}
    return replace(row, cells=cells)


def _tests_of(
    number: int,
    table: ResultTable,
    paths: tuple[Path, Path | None],
    split: str,
    image_of: Mapping[str, str],
    draws: SignFlips,
) -> Iterator[tuple[Place, TestedCell]]:
    """The tests of one table, not yet corrected."""
    rankers = [(place, row) for place, row in enumerate(table.rows) if not row.first_stage]
    first = table.first_stage
    if not first or not rankers:
        return
    metrics = [metric for metric in METRICS if metric in first.cells]
    values = read_values(paths[0], split, table, metrics, paths[1])
    baseline = values_of(values, first, baseline_protocol(table.protocol))
    queries = baseline.columns
    parts = []
    for _, row in rankers:
        ours = values_of(values, row, row.place(table.protocol)).reindex(columns=queries)
        parts.append(paired_differences(stacked(ours, metrics), stacked(baseline, metrics)))
    clusters = [image_of.get(query, query) for query in queries.get_level_values("query_id")]
    tests = paired_tests(np.concatenate(parts, axis=1), clusters, draws=draws.count, seed=draws.seed)
    columns = [(place, row, metric) for place, row in rankers for metric in metrics]
    for column, (place, row, metric) in enumerate(columns):
        if metric in row.cells and tests.queries[column]:
            spread = seed_spread(np.array(row.cells[metric].by_seed) - first.cells[metric].mean)
            yield (
                (number, place, metric),
                TestedCell(
                    low=float(tests.low[column]),
                    high=float(tests.high[column]),
                    p=float(tests.p[column]),
                    corrected=float(tests.p[column]),
                    wins=int(tests.wins[column]),
                    ties=int(tests.ties[column]),
                    losses=int(tests.losses[column]),
                    agreeing=spread.agreeing,
                ),
            )


def read_values(
    path: Path, split: str, table: ResultTable, metrics: Sequence[str], baselines: Path | None = None
) -> pd.DataFrame:
    """The per-query values of all methods of a table, and of the first stage where its figures stand."""
    protocols = {table.protocol, baseline_protocol(table.protocol)}
    filters: list[tuple[str, str, object]] = [("direction", "==", table.direction), ("protocol", "in", protocols)]
    filters += [("metric", "in", set(metrics)), *([("split", "==", split)] if split else [])]
    columns = ["method", "ranker", "protocol", "seed", "metric", "query_id", "value"]
    found = pq.read_table(path, columns=columns, filters=filters).to_pandas()
    if baselines is None:
        return found
    more = pq.read_table(baselines, columns=columns, filters=[*filters, ("method", "!=", FIRST_STAGE)]).to_pandas()
    return pd.concat([frame.astype({"method": str, "ranker": str, "protocol": str}) for frame in (found, more)])


def values_of(values: pd.DataFrame, row: TableRow, protocol: str) -> pd.DataFrame:
    """One method's values: a row a seed and metric, a column a query and, of several lists, which of them."""
    own = (values["method"] == row.method) & (values["ranker"] == row.ranker) & (values["protocol"] == protocol)
    frame = values.loc[own, ["seed", "metric", "query_id", "value"]].astype({"metric": str, "query_id": str})
    frame["list"] = frame.groupby(["seed", "metric", "query_id"]).cumcount()
    return frame.set_index(["seed", "metric", "query_id", "list"])["value"].unstack(["query_id", "list"])


def stacked(values: pd.DataFrame, metrics: Sequence[str]) -> np.ndarray:
    """[seeds, queries, metrics]."""
    seeds = sorted(values.index.unique("seed"))
    wide = values.reindex(pd.MultiIndex.from_product([seeds, metrics], names=["seed", "metric"]))
    return wide.to_numpy(float).reshape(len(seeds), len(metrics), -1).transpose(0, 2, 1)
