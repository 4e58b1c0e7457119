import math
import subprocess
import sys

import numpy as np
import pytest

from xmrank.metrics import METRICS, mean_over_queries, metric_names, mlflow_name

approx = pytest.approx


def test_names_in_the_order_of_a_report():
    assert METRICS == ("hit@1", "hit@5", "hit@10", "recall@1", "recall@5", "recall@10", "mrr", "ndcg@10")
    assert metric_names((2, 1)) == ("hit@2", "hit@1", "recall@2", "recall@1", "mrr", "ndcg@2")


@pytest.mark.parametrize(("name", "expected"), [("hit@1", "hit_at_1"), ("ndcg@10", "ndcg_at_10"), ("mrr", "mrr")])
def test_mlflow_names_have_no_at_sign(name, expected):
    assert mlflow_name(name) == expected


def test_the_mean_leaves_out_and_counts_queries_without_a_value():
    mean, counted, excluded = mean_over_queries([0.5, math.nan, 1.0, 0.0, math.nan])
    assert mean == approx((0.5 + 1.0 + 0.0) / 3)
    assert (counted, excluded) == (3, 2)


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_the_mean_of_nothing_is_nan_without_a_warning(values, recwarn):
    result = mean_over_queries(values)
    assert math.isnan(result.mean)
    assert (result.counted, result.excluded) == (0, len(values))
    assert not recwarn.list


def test_the_mean_of_many_float32_values_is_taken_in_float64():
    assert mean_over_queries(np.full(1000, 0.1, dtype=np.float32)).mean == approx(float(np.float32(0.1)), rel=1e-14)


def test_only_a_vector_has_a_mean_over_queries():
    with pytest.raises(ValueError, match=r"expected \[queries\]"):
        mean_over_queries(np.zeros((2, 2)))


def test_metrics_are_imported_without_torch_and_ray():
    code = "import sys, xmrank.metrics; sys.exit(bool({'torch', 'ray', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
