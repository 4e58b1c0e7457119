"""The tables of results: one row a query and metric, one row a ranked item."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.embed.store import EmbeddingStore
from xmrank.metrics import mean_over_queries
from xmrank.protocols.galleries import Protocol
from xmrank.runtime.files import atomic

KEYS = ("method", "loss", "ranker", "seed", "direction", "split", "protocol")
TEXT = pa.dictionary(pa.int32(), pa.string())
KEY_FIELDS = [(name, pa.int32() if name == "seed" else TEXT) for name in KEYS] + [("query_id", TEXT)]
METRICS_SCHEMA = pa.schema([*KEY_FIELDS, ("metric", TEXT), ("value", pa.float64()), ("positives", pa.int32())])
RANKINGS_SCHEMA = pa.schema([*KEY_FIELDS, ("candidate_id", TEXT), ("rank", pa.int32()), ("score", pa.float32())])


def metrics_table(
    key: dict[str, Any], query_ids: list[str], metrics: dict[str, np.ndarray], positives: np.ndarray
) -> pa.Table:
    """Per-query metrics as rows: every query × metric; a query without a positive has a null value."""
    count = len(query_ids)
    columns = {
        "query_id": pa.array(query_ids).dictionary_encode().take(np.tile(np.arange(count), len(metrics))),
        "metric": pa.array(list(metrics)).dictionary_encode().take(np.repeat(np.arange(len(metrics)), count)),
        "value": pa.array(np.concatenate(list(metrics.values())), from_pandas=True),
        "positives": pa.array(np.tile(positives, len(metrics)), pa.int32()),
    }
    return with_key(key, columns, count * len(metrics), METRICS_SCHEMA)


def rankings_table(
    key: dict[str, Any], protocol: Protocol, scores: np.ndarray, ids: tuple[pa.Array, pa.Array]
) -> pa.Table:
    """The ranked items of every list as rows; equal scores are ranked by the items' row numbers.

    Args:
        scores: flat as in the protocol's lists.
        ids: of all rows of the query side and of the other side.
    """
    lists = protocol.lists
    owner = np.repeat(np.arange(len(lists)), lists.lengths)
    order = np.lexsort((lists.candidates, -scores, owner))
    rank = np.arange(len(order)) - np.repeat(lists.offsets[:-1], lists.lengths) + 1
    columns = {
        "query_id": ids[0].take(lists.queries).dictionary_encode().take(owner),
        "candidate_id": ids[1].take(lists.candidates[order]).dictionary_encode(),
        "rank": pa.array(rank, pa.int32()),
        "score": pa.array(scores[order], pa.float32()),
    }
    return with_key(key, columns, len(order), RANKINGS_SCHEMA)


def with_key(key: dict[str, Any], columns: dict[str, Any], rows: int, schema: pa.Schema) -> pa.Table:
    """The columns with the key's values repeated in front of them."""
    constant = {name: pa.array([key[name]]).dictionary_encode().take(np.zeros(rows, np.int64)) for name in KEYS}
    constant["seed"] = pa.array(np.full(rows, key["seed"]), pa.int32())
    return pa.table({**constant, **columns}).select(schema.names).cast(schema)


def side_ids(store: EmbeddingStore, direction: str) -> tuple[pa.Array, pa.Array]:
    """The ids of all query rows and of all rows of the other side."""
    images = store.images["image_id"].combine_chunks()
    captions = store.captions["caption_id"].combine_chunks()
    return (images, captions) if direction == "i2t" else (captions, images)


def summarise(key: dict[str, Any], metrics: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row a metric: the mean over queries, how many it is over, how many had nothing to find."""
    rows = []
    for name, values in metrics.items():
        mean, counted, excluded = mean_over_queries(values)
        value = None if np.isnan(mean) else mean
        rows.append({**key, "metric": name, "mean": value, "queries": counted, "excluded": excluded})
    return rows


def join_tables(path: Path, parts: list[Path], schema: pa.Schema) -> None:
    """Write the parts one after another as one parquet file, one part in memory at a time."""
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part).unify_dictionaries().cast(schema))
