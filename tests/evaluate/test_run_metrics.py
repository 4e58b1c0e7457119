"""Metrics of rankings given as dictionaries or TREC files, spelled out by hand."""

import gzip
import math

import numpy as np
import pytest

from xmrank.evaluate.run_metrics import evaluate_run
from xmrank.metrics import list_metrics
from xmrank.runtime.errors import DataError


def of_query(metrics, query):
    """A query's metrics by name."""
    row = metrics.queries.index(query)
    return {name: float(values[row]) for name, values in metrics.per_query.items()}


def test_one_query_by_hand():
    metrics = evaluate_run({"q": ["a", "b", "c"]}, {"q": {"b": 1, "c": 1, "missed": 1}}, ks=(1, 2, 3))
    ideal = 1 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert of_query(metrics, "q") == pytest.approx(
        {
            "hit@1": 0, "hit@2": 1, "hit@3": 1, "recall@1": 0, "recall@2": 1 / 3, "recall@3": 2 / 3, "mrr": 1 / 2,
            "ndcg@3": (1 / math.log2(3) + 1 / math.log2(4)) / ideal,
        }
    )  # fmt: skip


def test_the_grades_of_missed_items_count_in_the_ideal_order():
    metrics = evaluate_run({"q": ["a"]}, {"q": {"a": 1, "missed": 2}}, ks=(2,))
    ideal = (2**2 - 1) / math.log2(2) + (2**1 - 1) / math.log2(3)
    assert of_query(metrics, "q")["ndcg@2"] == pytest.approx((2**1 - 1) / math.log2(2) / ideal)


def test_an_item_that_is_not_retrieved_is_in_no_top_k():
    metrics = evaluate_run({"q": ["a", "b"]}, {"q": {"missed": 1}}, ks=(1, 10))
    assert set(of_query(metrics, "q").values()) == {0.0}


def test_equal_scores_count_by_the_mean_over_their_orders():
    metrics = evaluate_run({"q": {"a": 1e30, "b": 1e30, "c": -1e30}}, {"q": {"b": 1}}, ks=(1,))
    assert of_query(metrics, "q") == pytest.approx({"hit@1": 1 / 2, "recall@1": 1 / 2, "mrr": 3 / 4, "ndcg@1": 1 / 2})


def test_queries_without_a_relevant_item_are_excluded_and_those_not_ranked_score_0():
    run = {"ranked": ["a"], "only irrelevant": ["a"], "not judged": ["a"]}
    metrics = evaluate_run(run, {"ranked": {"a": 1}, "only irrelevant": {"a": 0}, "not ranked": {"a": 1}})
    assert metrics.queries == ["ranked", "only irrelevant", "not ranked", "not judged"]
    assert metrics.per_query["hit@1"].tolist() == pytest.approx([1, math.nan, 0, math.nan], nan_ok=True)
    assert (metrics.counted, metrics.excluded) == (2, 2)
    assert metrics.means == dict.fromkeys(metrics.per_query, 0.5)


def test_whole_rankings_agree_with_the_metrics_of_lists():
    random = np.random.default_rng(0)
    scores = random.integers(0, 5, (20, 12)).astype(float)  # with ties
    labels = random.integers(0, 3, (20, 12)) * (random.random((20, 12)) < 0.3)
    run = {str(q): {str(i): scores[q, i] for i in range(12)} for q in range(20)}
    qrels = {str(q): {str(i): int(labels[q, i]) for i in range(12)} for q in range(20)}
    metrics = evaluate_run(run, qrels)
    for name, values in list_metrics(scores, labels).items():
        assert metrics.per_query[name].tolist() == pytest.approx(values.tolist(), nan_ok=True)


def test_nothing_to_measure_is_no_error():
    metrics = evaluate_run({}, {})
    assert (metrics.queries, metrics.counted, metrics.excluded) == ([], 0, 0)
    assert math.isnan(metrics.means["hit@1"])


def test_trec_files_give_the_same(tmp_path):
    (tmp_path / "run.trec").write_text("a%20b Q0 x 2 0.5 tag\na%20b Q0 y%25 1 0.7 tag\n\n")
    (tmp_path / "qrels.trec.gz").write_bytes(gzip.compress(b"a%20b 0 x 1\nother 0 x 2\n"))
    metrics = evaluate_run(tmp_path / "run.trec", str(tmp_path / "qrels.trec.gz"))
    same = evaluate_run({"a b": {"x": 0.5, "y%": 0.7}}, {"a b": {"x": 1}, "other": {"x": 2}})
    assert (metrics.queries, metrics.means) == (same.queries, same.means)
    assert metrics.means["mrr"] == (1 / 2 + 0) / 2


@pytest.mark.parametrize("line", ["q Q0 x 1 tag", "q Q0 x 1 high tag", "q x 1"])
def test_a_line_of_another_form_is_named(tmp_path, line):
    (tmp_path / "run.trec").write_text(f"q Q0 x 1 0.5 tag\n{line}\n")
    with pytest.raises(DataError, match=r"run\.trec: line 2: .*, expected QUERY Q0 ITEM RANK SCORE TAG"):
        evaluate_run(tmp_path / "run.trec", {})
    with pytest.raises(DataError, match="missing: no such file"):
        evaluate_run(tmp_path / "missing", {})


def test_refused_rankings():
    with pytest.raises(ValueError, match="query q: an item is ranked more than once"):
        evaluate_run({"q": ["a", "b", "a"]}, {})
    with pytest.raises(ValueError, match="query q: a score is NaN"):
        evaluate_run({"q": {"a": math.nan}}, {})
    with pytest.raises(ValueError, match="ks"):
        evaluate_run({"q": ["a"]}, {"q": {"a": 1}}, ks=(0,))
    with pytest.raises(ValueError, match="ks"):
        evaluate_run({}, {}, ks=())
