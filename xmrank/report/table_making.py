"""Result tables from per-query values: first the mean over queries, then mean and deviation over seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from xmrank.config import DIRECTIONS
from xmrank.config.method_names import BASELINE, FIRST_STAGE, ORACLE, REFINED
from xmrank.pages.wording import CEILING, method_name
from xmrank.protocols.protocol_names import first_stage_protocol, reranking_depth, shown_protocols
from xmrank.report.inputs import loss_sort_key
from xmrank.report.result_tables import ResultTable, TableCell, TableRow, mark_best
from xmrank.runtime.files import read_batches

KEYS = ["protocol", "direction", "method", "ranker", "metric", "seed"]


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
        for batch in read_batches(source, 1 << 20, [*KEYS, "split", "value"]):
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
            re_ranked = any(row.re_ranks for row in table.rows)
            if table.rows and (re_ranked or not reranking_depth(protocol)):
                tables.append(replace(table, ceiling=_oracle_row(best, table)))
    return tables


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
    several = here.loc[~_ranks_whole_gallery(here) & (here["method"] != REFINED), "ranker"].nunique() > 1
    rows = []
    for (method, ranker), group in here.groupby(["method", "ranker"]):
        label = method_name(str(method))
        # The ranker is named only where it tells two rows of one loss apart.
        if several and ranker not in ("", BASELINE):
            label += f" ({ranker})"
        rows.append(TableRow(str(method), str(ranker), label, _make_cells(group)))
    # First the first stage, then baselines, then what re-ranks, the refined first stage before the rankers; each by the
    # order of the losses.
    kind = {row.method: (not row.first_stage, row.re_ranks, row.trained_ranker) for row in rows}
    rows.sort(key=lambda row: (*kind[row.method], loss_sort_key(row.method, losses), row.ranker))
    return ResultTable(protocol, direction, tuple(mark_best(_add_differences(rows))))


def _make_cells(group: pd.DataFrame) -> dict[str, TableCell]:
    cells = {}
    # A seed whose queries are all excluded has no mean.
    for metric, part in group.dropna(subset=["mean"]).sort_values("seed").groupby("metric"):
        cells[str(metric)] = TableCell(tuple(part["mean"]), int(part["queries"].max()), int(part["excluded"].max()))
    return cells


def _add_differences(rows: list[TableRow]) -> list[TableRow]:
    """The rows with every method's difference to the first stage, and every ranker's to the refined first stage."""
    first = next((row.cells for row in rows if row.first_stage), {})
    refined = next((row.cells for row in rows if row.refined), {})
    compared = []
    for row in rows:
        cells = dict(row.cells)
        if not row.first_stage:
            for metric in cells.keys() & first.keys():
                cells[metric] = replace(cells[metric], difference=cells[metric].mean - first[metric].mean)
        if row.trained_ranker:
            for metric in cells.keys() & refined.keys():
                cells[metric] = replace(cells[metric], refined_difference=cells[metric].mean - refined[metric].mean)
        compared.append(replace(row, cells=cells))
    return compared
