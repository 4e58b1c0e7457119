"""The tables of results: a row a query and metric, a row a ranked item, keys as dictionaries."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols.galleries import ListProtocol
from xmrank.protocols.query_tables import (
    METRICS_SCHEMA,
    RANKINGS_SCHEMA,
    make_metrics_table,
    make_rankings_table,
    summarise_metrics,
)
from xmrank.protocols.table_parts import join_tables

KEY = {
    "method": "listnet",
    "loss": "listnet",
    "ranker": "context_aware",
    "seed": 3,
    "direction": "i2t",
    "split": "test",
    "protocol": "lists",
}
IDS = pa.array(["image0", "image1"]), pa.array(["a", "b", "c", "d"])
METRICS = {"hit@1": np.array([1.0, math.nan]), "mrr": np.array([0.5, math.nan])}
PROTOCOL = ListProtocol(
    "lists",
    "i2t",
    CandidateLists(
        np.array([1, 0], np.int32),
        np.array([0, 3, 5]),
        np.array([3, 0, 1, 2, 0], np.int32),
        np.array([0, 1, 0, 1, 0], np.float32),
        np.zeros(5, np.float32),
    ),
    np.array([1, 1]),
)


def columns(table, *names):
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_a_query_and_metric_are_a_row():
    table = make_metrics_table(KEY, ["image1", "image0"], METRICS, np.array([5, 0]))
    assert columns(table, "query_id", "metric", "value", "positives") == [
        ("image1", "hit@1", 1.0, 5),
        ("image0", "hit@1", None, 0),  # nothing to find: excluded from every mean
        ("image1", "mrr", 0.5, 5),
        ("image0", "mrr", None, 0),
    ]
    assert columns(table, *KEY) == [tuple(KEY.values())] * 4


def test_items_are_ranked_by_descending_score_and_ties_by_row():
    # List of image1: captions d, a, b with scores 2, 2, 5: b, then a (row 0) before d (row 3).
    table = make_rankings_table(KEY, PROTOCOL, np.array([2.0, 2.0, 5.0, -1.0, 4.0], np.float32), IDS)
    assert columns(table, "query_id", "candidate_id", "rank", "score") == [
        ("image1", "b", 1, 5.0),
        ("image1", "a", 2, 2.0),
        ("image1", "d", 3, 2.0),
        ("image0", "a", 1, 4.0),
        ("image0", "c", 2, -1.0),
    ]


def test_texts_are_dictionaries():
    metrics = make_metrics_table(KEY, ["image1", "image0"], METRICS, np.array([1, 1]))
    rankings = make_rankings_table(KEY, PROTOCOL, np.zeros(5, np.float32), IDS)
    assert metrics.schema.equals(METRICS_SCHEMA)
    assert rankings.schema.equals(RANKINGS_SCHEMA)
    texts = {"method", "loss", "ranker", "direction", "split", "protocol", "query_id"}
    for table, own in ((metrics, {"metric"}), (rankings, {"candidate_id"})):
        assert {field.name for field in table.schema if pa.types.is_dictionary(field.type)} == texts | own


def test_a_summary_says_over_how_many_queries_a_mean_is():
    rows = summarise_metrics(KEY, {"hit@1": np.array([1.0, 0.0, math.nan]), "mrr": np.array([math.nan] * 3)})
    assert rows == [
        {**KEY, "metric": "hit@1", "mean": 0.5, "queries": 2, "excluded": 1},
        {**KEY, "metric": "mrr", "mean": None, "queries": 0, "excluded": 3},
    ]


def test_parts_are_joined_in_order_whatever_their_dictionaries(tmp_path):
    parts = []
    for number, loss in enumerate(("listnet", "ranknet")):
        key = {**KEY, "method": loss, "loss": loss}
        parts.append(tmp_path / f"{number}.metrics")
        pq.write_table(make_metrics_table(key, ["image1", "image0"], METRICS, np.array([1, 0])), parts[-1])
    join_tables(tmp_path / "metrics.parquet", parts, METRICS_SCHEMA)
    joined = pq.read_table(tmp_path / "metrics.parquet")
    assert joined["loss"].to_pylist() == ["listnet"] * 4 + ["ranknet"] * 4
    assert joined["value"].to_pylist() == [1.0, None, 0.5, None] * 2
