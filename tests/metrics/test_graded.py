"""mAP@R, R-precision and PMRP of relevance by hand, and on all orders of ties."""

from itertools import pairwise, permutations

import numpy as np
import pytest

from xmrank.metrics import metrics_at_r, pmrp


def test_by_hand():
    scores = [[5.0, 4.0, 3.0, 2.0, 1.0]]
    relevant = np.array([[True, False, True, False, True]])  # R = 3: the top 3 hold two
    result = metrics_at_r(scores, relevant)
    assert result["r_precision"][0] == pytest.approx(2 / 3)
    assert result["map@r"][0] == pytest.approx((1 / 1 + 2 / 3) / 3)


def test_one_query_and_padding():
    """The third item is padding: R = 2, and the top 2 hold one positive, on rank 1."""
    result = metrics_at_r([5.0, 4.0, 9.0, 2.0], [True, False, True, True], [True, True, False, True])
    assert result == {"r_precision": 1 / 2, "map@r": (1 / 1) / 2}
    missed = metrics_at_r([5.0, 4.0, 9.0, 2.0], [True, False, True, True], [True, True, False, True], totals=3)
    assert missed["r_precision"] == pytest.approx(2 / 3)
    assert pmrp([2.0, 1.0], [True, False], np.array([[True, True], [True, False]]), distances=(0,)) == 0.0


def test_what_was_not_ranked_is_missed():
    scores = [[2.0, 1.0, -np.inf, -np.inf]]
    relevant = np.array([[False, True, True, False]])
    result = metrics_at_r(scores, relevant, totals=[3])
    assert result["r_precision"][0] == pytest.approx(1 / 3)
    assert result["map@r"][0] == pytest.approx((1 / 2) / 3)


def test_a_query_without_positives_has_no_value():
    result = metrics_at_r([[1.0, 0.0]], np.zeros((1, 2), bool))
    assert np.isnan(result["map@r"][0]) and np.isnan(result["r_precision"][0])


@pytest.mark.parametrize("scores", [[1, 1, 1, 1, 0], [2, 1, 1, 1, 0], [0] * 5, [3, 1, 3, 1, 2], [4, 3, 2, 1, 0]])
@pytest.mark.parametrize("relevant", [[1, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
def test_ties_are_the_mean_over_all_orders(scores, relevant):
    values, hits, r = np.array(scores, float), np.array(relevant), sum(relevant)
    orders = [o for o in permutations(range(5)) if all(values[a] >= values[b] for a, b in pairwise(o))]
    precision = [np.cumsum(hits[list(o)]) / np.arange(1, 6) for o in orders]
    expected = np.mean([(hits[list(o)][:r] * p[:r]).sum() / r for o, p in zip(orders, precision, strict=True)])
    result = metrics_at_r(values[None], hits[None] > 0)
    assert result["map@r"][0] == pytest.approx(expected)
    assert result["r_precision"][0] == pytest.approx(np.mean([hits[list(o)][:r].sum() / r for o in orders]))


def test_pmrp_by_hand():
    query = np.array([[1, 1, 0, 0]]) > 0
    items = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]) > 0  # differ in 0, 1, 1 and 4 classes
    scores = [[0.1, 0.9, 0.5, 0.8]]  # ranked: 1, 3, 2, 0
    # ζ = 0: one plausible match, not in the top 1. ζ = 1 and 2: three of them, two in the top 3.
    assert pmrp(scores, query, items)[0] == pytest.approx((0 + 2 / 3 + 2 / 3) / 3)
    assert pmrp(scores, query, items, distances=(4,))[0] == 1.0
    assert np.isnan(pmrp([[1.0]], query, items[3:], distances=(0, 1))[0])
    assert pmrp([[1.0]], query, items[1:2])[0] == 1.0  # nothing at ζ = 0, which is left out


@pytest.mark.parametrize(
    ("scores", "relevant", "totals", "message"),
    [
        ([[1.0, 2.0]], [[True]], None, "expected one shape"),
        ([[np.nan]], [[True]], None, "scores are NaN"),
        ([[1.0, 2.0]], [[True, True]], [1], "totals: expected one a query"),
        ([[1.0, 2.0]], [[True, True]], [3], "totals: expected one a query"),
    ],
)
def test_what_cannot_be_is_refused(scores, relevant, totals, message):
    with pytest.raises(ValueError, match=message):
        metrics_at_r(scores, np.array(relevant), totals=totals)
