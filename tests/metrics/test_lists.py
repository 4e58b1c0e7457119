import itertools
import math
from fractions import Fraction
from math import comb, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmrank.metrics import METRICS, list_metrics
from xmrank.metrics import ties as ties_module

approx = pytest.approx

CHOICES = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.5]), st.sampled_from([0.0, 0.0, 0.4, 1.0, 3.0]), st.booleans()),
    min_size=1,
    max_size=6,
)


def metrics_of(scores, labels, **options):
    """The metrics of one list, as floats."""
    return {name: float(value[0]) for name, value in list_metrics([scores], [labels], **options).items()}


def metrics_of_order(labels, ks, gain):
    """The metrics of one list of labels, in the order of the ranking: the definitions, read aloud."""
    ranks = [rank for rank, label in enumerate(labels, 1) if label > 0]
    if not ranks:
        return dict.fromkeys(
            [*(f"{name}@{k}" for name in ("hit", "recall") for k in ks), "mrr", f"ndcg@{max(ks)}"], math.nan
        )

    def dcg(order):
        return sum(gain(label) / log2(1 + rank) for rank, label in enumerate(order[: max(ks)], 1))

    return {
        **{f"hit@{k}": float(ranks[0] <= k) for k in ks},
        **{f"recall@{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in ks},
        "mrr": 1 / ranks[0],
        f"ndcg@{max(ks)}": dcg(labels) / dcg(sorted(labels, reverse=True)),
    }


def expectation_by_enumeration(scores, labels, ks, gain):
    """The mean of metrics_of_order over every order that a descending sort may leave the list in."""
    groups = [
        [y for s, y in zip(scores, labels, strict=True) if s == score] for score in sorted(set(scores), reverse=True)
    ]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    results = [metrics_of_order([*itertools.chain(*order)], ks, gain) for order in orders]
    return {name: sum(result[name] for result in results) / len(results) for name in results[0]}


def test_an_untied_list_spelled_out():
    # By score: 0.9 (no), 0.7 (yes), 0.4 (no), 0.3 (yes), 0.1 (yes): positives at ranks 2, 4 and 5.
    result = metrics_of([0.7, 0.1, 0.9, 0.4, 0.3], [1, 1, 0, 0, 1], ks=(1, 2, 4))
    assert result == {
        "hit@1": 0.0,
        "hit@2": 1.0,
        "hit@4": 1.0,
        "recall@1": 0.0,
        "recall@2": approx(1 / 3),
        "recall@4": approx(2 / 3),
        "mrr": approx(1 / 2),
        "ndcg@4": approx((1 / log2(1 + 2) + 1 / log2(1 + 4)) / (1 / log2(1 + 1) + 1 / log2(1 + 2) + 1 / log2(1 + 3))),
    }


def test_one_list_has_numbers_for_metrics():
    """By score: 0.9 (no), 0.7 (yes); the third item, which would come first, is padding."""
    one = list_metrics([0.7, 0.9, 2.0], [1, 0, 1], [True, True, False], ks=(1, 2))
    assert {value.shape for value in one.values()} == {()}
    assert one == {"hit@1": 0.0, "hit@2": 1.0, "recall@1": 0.0, "recall@2": 1.0, "mrr": 0.5, "ndcg@2": 1 / log2(1 + 2)}
    of_two = list_metrics([0.7, 0.9], [1, 0], ks=(2,), total_positives=2)
    assert of_two["recall@2"] == 1 / 2


def test_ndcg_gains_are_exponential_unless_linear():
    scores, labels = [3.0, 2.0, 1.0], [1, 0, 3]
    assert metrics_of(scores, labels)["ndcg@10"] == approx(((2**1 - 1) / 1 + (2**3 - 1) / 2) / (7 / 1 + 1 / log2(3)))
    assert metrics_of(scores, labels, gain="linear")["ndcg@10"] == approx((1 / 1 + 3 / 2) / (3 / 1 + 1 / log2(3)))


def test_ties_spelled_out():
    # One item is above, then three have one score, one of them positive: it is at rank 2, 3 or 4, each with 1/3.
    result = metrics_of([0.5, 0.5, 0.9, 0.5, 0.1], [0, 1, 0, 0, 0], ks=(1, 2, 3, 10))
    assert result["hit@1"] == result["recall@1"] == 0
    assert result["hit@2"] == result["recall@2"] == approx(1 / 3)
    assert result["hit@3"] == result["recall@3"] == approx(2 / 3)
    assert result["hit@10"] == result["recall@10"] == 1
    assert result["mrr"] == approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert result["ndcg@10"] == approx((1 / log2(3) + 1 / log2(4) + 1 / log2(5)) / 3)


def test_several_tied_positives_spelled_out():
    # Two of four tied items are positive. The first of them is at rank 1 in 3 of the 6 pairs of ranks, 2 in 2, 3 in 1.
    result = metrics_of([1.0, 1.0, 1.0, 1.0], [1, 0, 0, 1], ks=(1, 2))
    assert result["hit@1"] == approx(3 / 6)
    assert result["hit@2"] == approx(5 / 6)
    assert (result["recall@1"], result["recall@2"]) == (1 / 4, 2 / 4)
    assert result["mrr"] == approx((3 / 1 + 2 / 2 + 1 / 3) / 6)
    assert result["ndcg@2"] == approx((2 / 4) * (1 / 1 + 1 / log2(3)) / (1 / 1 + 1 / log2(3)))


@settings(max_examples=300, deadline=None)
@given(items=CHOICES, ks=st.sampled_from([(1, 2, 3), (2,), (5, 1), (1, 10)]), linear=st.booleans())
def test_every_metric_is_its_mean_over_all_orders_of_the_ties(items, ks, linear):
    scores, labels, real = (list(column) for column in zip(*items, strict=True))
    gain = (lambda label: label) if linear else (lambda label: 2**label - 1)
    kept = [(score, label) for score, label, is_real in items if is_real] or [(0.0, 0.0)]
    expected = expectation_by_enumeration(*zip(*kept, strict=True), ks, gain)
    result = metrics_of(scores, labels, mask=[real], ks=ks, gain="linear" if linear else "exponential")
    assert list(result) == list(expected)
    assert result == approx(expected, abs=1e-12, rel=0, nan_ok=True)


@pytest.mark.parametrize("items", [1, 7, 51, 1000, 4999])
def test_a_constant_scorer_is_chance(items):
    result = metrics_of(np.full(items, 0.3), np.arange(items) == items // 2)
    for k in (1, 5, 10):
        assert result[f"hit@{k}"] == result[f"recall@{k}"] == min(k, items) / items  # to the last bit
    assert result["mrr"] == approx(sum(1 / rank for rank in range(1, items + 1)) / items, rel=1e-12)


@pytest.mark.parametrize(("items", "positives", "above"), [(3000, 1, 0), (3000, 5, 3), (2500, 900, 9), (50, 49, 2)])
def test_large_ties_equal_the_hypergeometric_in_integers(items, positives, above):
    scores, labels = np.zeros((1, above + items)), np.zeros((1, above + items))
    scores[0, :above], labels[0, above : above + positives] = 1, 1
    result = {name: value[0] for name, value in list_metrics(scores, labels).items()}
    ways = comb(items, positives)
    for k in (1, 5, 10):
        none = Fraction(comb(items - max(k - above, 0), positives), ways)
        assert result[f"hit@{k}"] == approx(float(1 - none), rel=1e-12)
    at = [
        Fraction(comb(items - draw, positives - 1), ways) for draw in range(1, items - positives + 2)
    ]  # first at draw
    assert result["mrr"] == approx(float(sum(p / (above + draw) for draw, p in enumerate(at[:3000], 1))), rel=1e-12)


def test_a_tie_of_a_hundred_thousand_items_neither_overflows_nor_underflows():
    labels = np.zeros((1, 100_000))
    labels[0, :50_000] = 1
    result = metrics_of(np.zeros(100_000), labels[0])
    assert result["hit@10"] == approx(1 - 0.5**10, rel=1e-4)
    assert result["mrr"] == approx(math.log(2), rel=1e-4)  # Σ 2^−r / r


@pytest.mark.parametrize("positives", [1, 2, 3, 5, 6])
def test_recall_of_a_constant_scorer_is_the_float_nearest_to_k_over_n(positives):
    for items in range(positives, 60):
        result = metrics_of(np.zeros(items), np.arange(items) < positives)
        for k in (1, 5, 10):
            assert result[f"recall@{k}"] == min(k, items) / items


@pytest.mark.parametrize("depth", [1, 5, 10, 40])
def test_a_perfect_ranking_is_exactly_1(depth):
    labels = np.random.default_rng(0).integers(0, 5, (100, 50))
    labels[:, 0] = 4
    result = list_metrics(labels + np.linspace(0.5, 0, 50), labels, ks=(depth,))
    for name in (f"hit@{depth}", "mrr", f"ndcg@{depth}"):
        assert result[name].tolist() == [1.0] * 100


def test_rounding_never_exceeds_1():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, (500, 15))
    for scores in (labels * 1.0, np.zeros((500, 15))):
        for name, value in list_metrics(scores, labels, ks=(10, 20)).items():
            assert np.nanmax(value) <= 1, name


def test_padding_changes_nothing_wherever_it_is():
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 6, (40, 9)).astype(float), random.integers(0, 3, (40, 9)).astype(float)
    scores[:, 2] = -np.inf  # ties with nothing that padding could hold
    plain = list_metrics(scores, labels)
    for filler in (np.nan, np.inf, -np.inf, 0.0):
        positions = random.permuted(np.tile(np.arange(14), (40, 1)), axis=1)[:, :9]
        positions.sort(axis=1)
        mask = np.zeros((40, 14), dtype=bool)
        padded_scores, padded_labels = np.full((40, 14), filler), np.full((40, 14), -1.0)
        np.put_along_axis(mask, positions, True, axis=1)
        np.put_along_axis(padded_scores, positions, scores, axis=1)
        np.put_along_axis(padded_labels, positions, labels, axis=1)
        for name, value in list_metrics(padded_scores, padded_labels, mask=mask).items():
            np.testing.assert_allclose(value, plain[name], rtol=0, atol=1e-15, err_msg=name)


def test_infinite_scores_rank_and_tie():
    assert metrics_of([np.inf, 0.0, -np.inf, -np.inf], [0, 0, 1, 0], ks=(1, 3))["recall@3"] == 1 / 2
    assert metrics_of([np.inf, 0.0, np.inf], [1, 0, 0], ks=(1,))["recall@1"] == 1 / 2
    assert metrics_of([0.0, -0.0], [1, 0], ks=(1,))["recall@1"] == 1 / 2


def test_a_query_without_positives_is_nan_in_every_metric():
    mask = np.array([[True, True], [True, True], [True, False]])
    result = list_metrics([[2.0, 1.0]] * 3, [[0, 1], [0, 0], [0, 1]], mask=mask)
    for name in METRICS:
        assert np.isnan(result[name]).tolist() == [False, True, True], name


def test_total_positives_spelled_out():
    # Positives at ranks 1 and 3 of the list, and one more that the first stage missed.
    result = metrics_of([3.0, 2.0, 1.0], [1, 0, 1], ks=(1, 3), total_positives=[3])
    assert result["recall@1"] == approx(1 / 3)
    assert result["recall@3"] == approx(2 / 3)
    assert (result["hit@1"], result["mrr"]) == (1, 1)
    assert result["ndcg@3"] == approx((1 / log2(2) + 1 / log2(4)) / (1 / log2(2) + 1 / log2(3) + 1 / log2(4)))


def test_total_positives_of_a_graded_list_miss_label_1():
    # The ideal order of the labels 2, 0.5 and the two missed: 2, 1, 1, 0.5. Ranks 1 to 3 count.
    result = metrics_of([1.0, 2.0], [2, 0.5], ks=(3,), total_positives=[4], gain="linear")
    assert result["ndcg@3"] == approx((0.5 / 1 + 2 / log2(3)) / (2 / 1 + 1 / log2(3) + 1 / log2(4)))


def test_a_query_whose_positives_were_all_missed_scores_0_not_nan():
    result = list_metrics([[2.0, 1.0]] * 3, [[0, 0], [0, 0], [0, 1]], total_positives=[2, 0, 1])
    for name in METRICS:
        assert result[name][0] == 0, name
        assert np.isnan(result[name][1]), name
    assert result["mrr"][2] == 1 / 2


def test_a_large_label_is_fine_with_the_linear_gain():
    assert metrics_of([1.0, 2.0], [0, 2000], gain="linear")["ndcg@10"] == 1


def test_total_positives_with_ties_is_exact_too():
    # 2 of 4 tied items in the top 2, one positive among them, of 5 in total: 1 · 2/4 / 5.
    assert metrics_of([1.0] * 4, [0, 1, 0, 0], ks=(2,), total_positives=[5])["recall@2"] == 1 / 10


@pytest.mark.parametrize("total", [[1], [-1]])
def test_a_list_with_more_positives_than_the_total_is_refused(total):
    with pytest.raises(ValueError, match="list 0 holds 2 positives, but its total_positives is"):
        list_metrics([[2.0, 1.0]], [[1, 1]], total_positives=total)


def test_a_query_has_the_same_value_alone_and_among_others():
    random = np.random.default_rng(1)
    scores, labels = random.integers(0, 5, (60, 80)), random.random((60, 80)) < 0.1
    together = list_metrics(scores, labels)
    for row in range(60):
        for name, value in list_metrics(scores[row : row + 1], labels[row : row + 1]).items():
            np.testing.assert_array_equal(value, together[name][row : row + 1], err_msg=name)


def test_a_table_cut_in_parts_gives_the_same_values(monkeypatch):
    random = np.random.default_rng(2)
    scores, labels = random.integers(0, 9, (50, 40)), random.random((50, 40)) < 0.2
    whole = list_metrics(scores, labels)
    monkeypatch.setattr(ties_module, "CELLS", 7)
    for name, value in list_metrics(scores, labels).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


def test_the_parts_of_a_table_cover_it_within_the_memory(monkeypatch):
    monkeypatch.setattr(ties_module, "CELLS", 12)
    widths = np.array([1, 5, 2, 30, 3, 3, 4, 1])
    parts = list(ties_module._split_evenly(widths))
    assert sorted(np.concatenate(parts)) == list(range(len(widths)))
    assert all(len(part) == 1 or len(part) * widths[part].max() <= 12 for part in parts)


def test_names_dtype_and_shape():
    result = list_metrics(np.zeros((4, 3), dtype=np.float32), np.eye(4, 3))
    assert tuple(result) == METRICS
    assert {(value.shape, value.dtype) for value in result.values()} == {((4,), np.dtype(np.float64))}
    assert tuple(list_metrics(np.zeros((1, 2)), np.ones((1, 2)), ks=(5, 2))) == (
        *("hit@5", "hit@2", "recall@5", "recall@2", "mrr", "ndcg@5"),
    )


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty_batches_and_empty_lists(shape):
    for value in list_metrics(np.zeros(shape), np.zeros(shape)).values():
        assert value.shape == shape[:1]
        assert np.isnan(value).all()


@pytest.mark.parametrize(
    ("scores", "labels", "options", "message"),
    [
        ([[np.nan, 1.0]], [[0, 1]], {}, "scores are NaN"),
        ([[1.0, 2.0]], [[0, -1]], {}, "negative or not finite"),
        ([[1.0, 2.0]], [[0, np.nan]], {}, "negative or not finite"),
        ([[1.0, 2.0]], [[0, np.inf]], {}, "negative or not finite"),
        ([[1.0, 2.0]], [[0, 2000]], {}, "too large for the exponential gain"),
        ([[1.0, 2.0]], [[0]], {}, "expected one shape"),
        ([1.0, 2.0], [0], {}, "expected one shape"),
        ([1.0, 2.0], [0, 1], {"mask": [[True, True]]}, "expected one shape"),
        (1.0, 0, {}, "expected one shape"),
        ([[1.0, 2.0]], [[0, 1]], {"mask": [[True]]}, "expected one shape"),
        ([[1.0, 2.0]], [[0, 1]], {"mask": [[1, 0]]}, "expected bool"),
        ([[1.0, 2.0]], [[0, 1]], {"ks": ()}, "ks is"),
        ([[1.0, 2.0]], [[0, 1]], {"ks": (0, 1)}, "ks is"),
        ([[1.0, 2.0]], [[0, 1]], {"ks": (1, 1)}, "ks is"),
        ([[1.0, 2.0]], [[0, 1]], {"ks": (1.5,)}, "ks is"),
        ([[1.0, 2.0]], [[0, 1]], {"gain": "quadratic"}, "exponential, linear"),
        ([[1.0, 2.0]], [[0, 1]], {"total_positives": [1, 1]}, "total_positives is"),
        ([[1.0, 2.0]], [[0, 1]], {"total_positives": [1.0]}, "total_positives is"),
    ],
)
def test_bad_input_is_refused(scores, labels, options, message):
    with pytest.raises(ValueError, match=message):
        list_metrics(scores, labels, **options)
