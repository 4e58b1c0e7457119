"""Average precision: spelled out, against scikit-learn, and under ties against every order."""

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from xmrank.metrics import average_precision, expected_relevance

REFERENCE = os.environ.get("XMRANK_REFERENCE")


def test_it_averages_the_precision_at_each_relevant_item():
    (value,) = average_precision([[True, False, True, True, False]])
    assert value == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)


def test_one_query_has_a_number():
    assert average_precision([False, True, True]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision([False, True], tied=[False, True]) == pytest.approx((1 / 1 + 1 / 2) / 2)


def test_without_anything_relevant_there_is_no_value():
    assert np.isnan(average_precision([[False, False]])).all()


def test_it_equals_scikit_learn_query_by_query():
    generator = np.random.default_rng(0)
    scores, relevance = generator.random((40, 200)), generator.random((40, 200)) < 0.1
    order = np.argsort(-scores, axis=1)
    values = average_precision(np.take_along_axis(relevance, order, 1))
    for query in range(40):
        assert values[query] == pytest.approx(average_precision_score(relevance[query], scores[query]), abs=1e-12)


def test_ties_are_the_mean_over_every_order():
    scores = [3.0, 2.0, 2.0, 2.0, 1.0, 0.0, 0.0]
    relevance = [False, True, False, True, False, True, False]
    values = []
    for middle in itertools.permutations(range(1, 4)):
        for last in itertools.permutations((5, 6)):
            order = [0, *middle, 4, *last]
            values += average_precision([[relevance[i] for i in order]]).tolist()
    tied = [[False, *(a == b for a, b in itertools.pairwise(scores))]]
    assert average_precision([relevance], tied=tied)[0] == pytest.approx(math.fsum(values) / len(values))


def test_a_constant_scorer_of_one_relevant_item_is_the_mean_reciprocal_rank():
    tied = [[False, True, True, True]]
    (value,) = average_precision([[False, True, False, False]], tied=tied)
    assert value == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_untied_flags_change_nothing():
    relevance = np.random.default_rng(1).random((5, 30)) < 0.3
    assert average_precision(relevance, tied=np.zeros((5, 30), bool)) == pytest.approx(average_precision(relevance))


@pytest.mark.parametrize("bad", [[[1, 0]], [1, 0], True])
def test_other_shapes_and_types_are_refused(bad):
    with pytest.raises(ValueError, match=r"expected bool \[items\] or \[queries, items\]"):
        average_precision(bad)


@pytest.mark.skipif(REFERENCE is None, reason="XMRANK_REFERENCE does not name the folder of reference values")
@pytest.mark.parametrize("case", ["map0", "map1"])
@pytest.mark.parametrize("measure", ["COS", "L2"])
def test_the_mean_equals_the_public_code_of_dscmr(case, measure):
    values = np.load(Path(REFERENCE) / "dscmr.npz")
    image, text, label = (values[f"{case}.{name}"] for name in ("img", "txt", "label"))
    if measure == "COS":
        image, text = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (image, text))
    for direction, queries, gallery in (("i2t", image, text), ("t2i", text, image)):
        distance = np.linalg.norm(queries[:, None] - gallery[None], axis=2)
        relevant = label[:, None] == label[np.argsort(distance, axis=1)]
        assert average_precision(relevant).mean() == pytest.approx(values[f"{case}.{measure}.{direction}"], abs=1e-12)


def test_a_cut_ends_the_sum_and_the_largest_value_is_1():
    relevance = np.array([[True, False, True, True], [False, False, True, False]])
    # 1/1 over min(3, 2); nothing down to rank 2.
    assert average_precision(relevance, cut=2).tolist() == [0.5, 0.0]
    assert average_precision(relevance, cut=3).tolist() == pytest.approx([(1 + 2 / 3) / 3, 1 / 3])
    assert average_precision(relevance, cut=9).tolist() == average_precision(relevance).tolist()
    tied = np.array([False, True, False])
    # Either order of the first two: 1/1 and 0 down to rank 1.
    assert average_precision([True, False, True], tied=tied, cut=1) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="cut is 0"):
        average_precision(relevance, cut=0)


def test_expected_relevance_is_the_mean_over_every_order_of_ties():
    relevance, tied = np.array([[True, False, False, True]]), np.array([[False, True, True, False]])
    assert expected_relevance(relevance, tied=tied)[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
