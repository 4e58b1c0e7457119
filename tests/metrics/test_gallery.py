from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmrank.metrics import METRICS, compute_similarities, gallery_metrics, list_metrics, top_n
from xmrank.metrics import gallery as gallery_module

approx = pytest.approx

SHAPES = {"queries": st.integers(0, 9), "items": st.integers(1, 12), "seed": st.integers(0, 10**6)}


def corners(random, count):
    """Unit vectors of halves, [count, 4]: their products are exact and mostly tied."""
    return random.choice(np.array([-0.5, 0.5], dtype=np.float32), (count, 4))


def directions(random, count, d=24):
    vectors = random.standard_normal((count, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pairs_of(relevant):
    """The (offsets, rows) of a boolean matrix [queries, items]."""
    return np.append(0, np.cumsum(relevant.sum(axis=1))), np.nonzero(relevant)[1]


def assert_same(result, expected):
    assert tuple(result) == tuple(expected)
    for name, value in result.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)  # to the last bit


def test_a_small_gallery_spelled_out():
    # Similarities 1, 0.5 and 0 to one query: the positives are at ranks 2 and 3.
    gallery = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5]])
    result = gallery_metrics(np.array([[1.0, 0, 0, 0]]), gallery, (np.array([0, 2]), np.array([2, 1])), ks=(1, 2))
    assert {name: value[0] for name, value in result.items()} == {
        "hit@1": 0.0,
        "hit@2": 1.0,
        "recall@1": 0.0,
        "recall@2": 0.5,
        "mrr": 0.5,
        "ndcg@2": approx((1 / log2(3)) / (1 / log2(2) + 1 / log2(3))),
    }


@settings(max_examples=150, deadline=None)
@given(**SHAPES, block=st.integers(1, 10), tied=st.booleans(), ks=st.sampled_from([(1, 5, 10), (2, 1), (30,)]))
def test_a_gallery_equals_the_list_of_all_its_items(queries, items, seed, block, tied, ks):
    random = np.random.default_rng(seed)
    embed = corners if tied else directions
    query, gallery = embed(random, queries), embed(random, items)
    relevant = random.random((queries, items)) < random.choice([0.1, 0.5, 1.0])
    result = gallery_metrics(query, gallery, pairs_of(relevant), ks=ks, block=block)
    assert_same(result, list_metrics(compute_similarities(query, gallery), relevant, ks=ks))


def test_a_realistic_gallery_equals_the_list_of_all_its_items():
    random = np.random.default_rng(0)
    gallery = directions(random, 5 * 90)
    gallery[100:140] = gallery[300:340]  # captions repeat
    query = directions(random, 90) * 0.1 + gallery[::5]
    relevant = np.arange(90)[:, None] == np.arange(450) // 5
    result = gallery_metrics(query, gallery, pairs_of(relevant), block=32)
    assert_same(result, list_metrics(compute_similarities(query, gallery), relevant))
    assert 0.5 < result["hit@1"].mean() < 0.99  # neither chance nor perfect
    assert 0.5 in result["hit@1"]  # a positive ties with its copy


def test_results_depend_neither_on_the_block_nor_on_the_gallery_slice(monkeypatch):
    random = np.random.default_rng(1)
    query, gallery = directions(random, 53, 512), directions(random, 211, 512)
    relevant = np.eye(53, 211, dtype=bool)
    whole = gallery_metrics(query, gallery, pairs_of(relevant), block=53)
    best = top_n(query, gallery, 20, block=53)
    monkeypatch.setattr(gallery_module, "GALLERY_ROWS", 10)
    for block in (1, 7, 1000):
        assert_same(gallery_metrics(query, gallery, pairs_of(relevant), block=block), whole)
        for result, expected in zip(top_n(query, gallery, 20, block=block), best, strict=True):
            np.testing.assert_array_equal(result, expected)


def test_a_gallery_of_copies_is_chance():
    random = np.random.default_rng(2)
    query, gallery = directions(random, 5, 512), np.repeat(directions(random, 1, 512), 4999, axis=0)
    result = gallery_metrics(query, gallery, (np.arange(6), np.array([0, 1, 2500, 4097, 4998])), block=2)
    for k in (1, 5, 10):
        assert result[f"recall@{k}"].tolist() == result[f"hit@{k}"].tolist() == [k / 4999] * 5


def test_half_precision_memory_maps_are_read_as_they_are(tmp_path):
    random = np.random.default_rng(3)
    np.save(tmp_path / "image.npy", directions(random, 30).astype(np.float16))
    stored = np.load(tmp_path / "image.npy", mmap_mode="r")
    positives = (np.arange(31), np.arange(30))
    assert_same(
        gallery_metrics(stored, stored, positives), gallery_metrics(stored.astype(float), np.array(stored), positives)
    )


def test_a_query_without_positives_is_nan_in_every_metric():
    random = np.random.default_rng(4)
    positives = (np.array([0, 1, 1, 3]), np.array([4, 0, 1]))
    result = gallery_metrics(directions(random, 3), directions(random, 6), positives)
    for name in METRICS:
        assert np.isnan(result[name]).tolist() == [False, True, False], name


def test_rows_in_any_order_and_integer_type():
    random = np.random.default_rng(5)
    query, gallery = corners(random, 2), corners(random, 8)
    expected = gallery_metrics(query, gallery, (np.array([0, 3, 5]), np.array([1, 4, 6, 0, 7])))
    shuffled = (np.array([0, 3, 5], dtype=np.int32), np.array([6, 1, 4, 7, 0], dtype=np.int32))
    assert_same(gallery_metrics(query, gallery, shuffled), expected)


@pytest.mark.parametrize(
    ("offsets", "rows", "message"),
    [
        ([0, 1], [0], "offsets"),
        ([1, 1, 1], [0], "offsets"),
        ([0, 2, 1], [0], "offsets"),
        ([0, 1, 1], [0, 1], "offsets"),
        ([0, 1, 2], [0, 3], "from 0 to 2"),
        ([0, 1, 2], [-1, 0], "from 0 to 2"),
        ([0, 2, 2], [1, 1], "twice"),
        ([0.0, 1.0, 2.0], [0, 1], "integers"),
        ([[0, 1, 2]], [0, 1], "vectors"),
    ],
)
def test_positives_that_do_not_fit_are_refused(offsets, rows, message):
    with pytest.raises(ValueError, match=message):
        gallery_metrics(np.eye(2, 3), np.eye(3), (np.array(offsets), np.array(rows)))


def test_the_same_row_may_be_positive_for_two_queries():
    result = gallery_metrics(np.eye(2), np.eye(2), (np.array([0, 1, 2]), np.array([0, 0])))
    assert result["mrr"].tolist() == [1, 1 / 2]


def test_embeddings_that_do_not_fit_are_refused():
    positives = (np.array([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match=r"expected \[queries, d\] and \[items, d\]"):
        gallery_metrics(np.ones((1, 3)), np.ones((2, 4)), positives)
    with pytest.raises(ValueError, match="NaN or infinite"):
        gallery_metrics(np.ones((1, 2)), np.array([[1.0, np.nan]]), positives)
    with pytest.raises(ValueError, match="NaN or infinite"):
        gallery_metrics(np.ones((1, 2)), np.array([[1.0, np.inf]]), positives)
    with pytest.raises(ValueError, match="block is 0"):
        gallery_metrics(np.ones((1, 2)), np.ones((1, 2)), positives, block=0)
    with pytest.raises(ValueError, match="ks is"):
        gallery_metrics(np.ones((1, 2)), np.ones((1, 2)), positives, ks=(0,))


def test_similarities_are_computed_in_float64_and_rounded_to_float32():
    result = compute_similarities(np.array([[1e60, 1.0]]), np.array([[0.1e-60, 0.2]]))
    assert (result.tolist(), result.dtype) == ([[float(np.float32(0.1 + 0.2))]], np.float32)


def test_top_n_spelled_out():
    gallery = np.array([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    rows, similarity = top_n(np.array([[1.0, 0.0], [0.0, -1.0]]), gallery, 3)
    assert rows.tolist() == [[1, 3, 0], [1, 2, 3]]  # the second query ties rows 1, 2 and 3 at 0
    assert similarity.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert (rows.dtype, similarity.dtype) == (np.int64, np.float32)


@settings(max_examples=150, deadline=None)
@given(**SHAPES, block=st.integers(1, 10), tied=st.booleans(), part=st.floats(0, 1))
def test_top_n_equals_a_stable_sort(queries, items, seed, block, tied, part):
    random = np.random.default_rng(seed)
    embed = corners if tied else directions
    query, gallery, n = embed(random, queries), embed(random, items), 1 + round(part * (items - 1))
    scores = compute_similarities(query, gallery)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :n]
    rows, similarity = top_n(query, gallery, n, block=block)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(similarity, np.take_along_axis(scores, expected, axis=1))


def test_top_n_orders_all_magnitudes_and_ties_the_two_zeros():
    values = np.array([-1e-50, 1e-50, 2.0, -3e30, 1e-40, -1e-40, 3e30, -2.0])  # the first two round to −0.0 and 0.0
    rows, _ = top_n(np.ones((1, 1)), values[:, None], len(values))
    assert rows.tolist() == [[6, 2, 4, 0, 1, 5, 7, 3]]


@pytest.mark.parametrize("n", [0, 4])
def test_top_n_outside_the_gallery_is_refused(n):
    with pytest.raises(ValueError, match=f"n is {n}; expected 1 to 3"):
        top_n(np.eye(3), np.eye(3), n)
