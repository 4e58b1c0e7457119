"""The tables of results: per-query metrics, one row for each query and metric, and rankings, one row for each item."""

from typing import Any

import numpy as np
import pyarrow as pa

from xmrank.metrics import mean_over_queries
from xmrank.protocols.galleries import ListProtocol
from xmrank.protocols.table_parts import TEXT

KEYS = ("method", "loss", "ranker", "seed", "direction", "split", "protocol")
"""Columns that say whose row it is and on which protocol."""
TableKey = dict[str, Any]
"""The value of each of ``KEYS`` for one method on one protocol."""
KEY_FIELDS = [(name, pa.int32() if name == "seed" else TEXT) for name in KEYS] + [("query_id", TEXT)]
METRICS_SCHEMA = pa.schema([*KEY_FIELDS, ("metric", TEXT), ("value", pa.float64()), ("positives", pa.int32())])
RANKINGS_SCHEMA = pa.schema([*KEY_FIELDS, ("candidate_id", TEXT), ("rank", pa.int32()), ("score", pa.float32())])


def make_metrics_table(
    key: TableKey, query_ids: list[str], metrics: dict[str, np.ndarray], positives: np.ndarray
) -> pa.Table:
    """Per-query metrics as rows, metric by metric; a query without a positive has a null value.

    Args:
        key: what every row begins with.
        query_ids: [queries].
        metrics: float64 [queries] by name.
        positives: of each query, int64 [queries].

    Returns:
        A table of ``METRICS_SCHEMA``.
    """
    count = len(query_ids)
    # Dictionaries are built on the few different values and then repeated, which is much faster than on all rows.
    columns = {
        "query_id": pa.array(query_ids).dictionary_encode().take(np.tile(np.arange(count), len(metrics))),
        "metric": pa.array(list(metrics)).dictionary_encode().take(np.repeat(np.arange(len(metrics)), count)),
        "value": pa.array(np.concatenate(list(metrics.values())), from_pandas=True),
        "positives": pa.array(np.tile(positives, len(metrics)), pa.int32()),
    }
    return prepend_key(key, columns, count * len(metrics), METRICS_SCHEMA)


def make_rankings_table(
    key: TableKey, protocol: ListProtocol, scores: np.ndarray, ids: tuple[pa.Array, pa.Array]
) -> pa.Table:
    """The items of every list as rows, best first; equal scores are in the order of the items' row numbers.

    Args:
        key: what every row begins with.
        scores: float32, flat as the protocol's lists.
        ids: of all rows of the query side and of the gallery side.

    Returns:
        A table of ``RANKINGS_SCHEMA``.
    """
    lists = protocol.lists
    owner = np.repeat(np.arange(len(lists)), lists.lengths)
    # By list, in it by falling score, then by row.
    order = np.lexsort((lists.candidates, -scores, owner))
    # The list's first item has rank 1.
    rank = np.arange(len(order)) - np.repeat(lists.offsets[:-1], lists.lengths) + 1
    columns = {
        "query_id": ids[0].take(lists.queries).dictionary_encode().take(owner),
        "candidate_id": ids[1].take(lists.candidates[order]).dictionary_encode(),
        "rank": pa.array(rank, pa.int32()),
        "score": pa.array(scores[order], pa.float32()),
    }
    return prepend_key(key, columns, len(order), RANKINGS_SCHEMA)


def prepend_key(key: TableKey, columns: dict[str, Any], rows: int, schema: pa.Schema) -> pa.Table:
    """The columns behind the key's values, which are the same in all rows."""
    constant = {name: pa.array([key[name]]).dictionary_encode().take(np.zeros(rows, np.int64)) for name in KEYS}
    # The seed is a number, all other keys are text.
    constant["seed"] = pa.array(np.full(rows, key["seed"]), pa.int32())
    return pa.table({**constant, **columns}).select(schema.names).cast(schema)


def summarise_metrics(key: TableKey, metrics: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row for each metric: the mean, how many queries it is over, and how many had no relevant item."""
    rows = []
    for name, values in metrics.items():
        mean, counted, excluded = mean_over_queries(values)
        # JSON has no NaN.
        value = None if np.isnan(mean) else mean
        rows.append({**key, "metric": name, "mean": value, "queries": counted, "excluded": excluded})
    return rows
