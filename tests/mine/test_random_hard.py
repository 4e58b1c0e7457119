"""The paper's lists: the hardest of the candidates drawn, and the positives."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmrank.mine.assemble import assemble_lists
from xmrank.mine.draw import draw_distinct
from xmrank.mine.gallery_index import compute_similarities
from xmrank.mine.pool import QueryPool
from xmrank.mine.random_hard import draw_candidates


def world(counts, seed=0, dimensions=6):
    """A pool of one query for each count, which owns that many items; gallery rows are far from their indices."""
    generator = np.random.default_rng(seed)
    last = np.cumsum(counts)
    gallery = generator.permutation(3000)[: last[-1]]
    pool = QueryPool("i2t", np.arange(len(counts)) + 500, gallery, last - counts, last)
    queries = generator.normal(size=(len(counts), dimensions)).astype(np.float32)
    items = generator.normal(size=(last[-1], dimensions)).astype(np.float32)
    index = faiss.IndexFlatIP(dimensions)
    index.add(items)
    return pool, queries, items, index


def lists_of(pool, queries, index, seed=0, *, hard_negatives, **parameters):
    generator = np.random.default_rng(seed)
    negatives, positives = draw_candidates(
        pool, lambda items: compute_similarities(index, queries, items), generator, **parameters
    )
    return assemble_lists(pool, negatives.take_first(hard_negatives).append_items(positives), generator)


def contents(lists, row):
    """The candidates of a list: gallery row → (label, similarity)."""
    part = slice(lists.offsets[row], lists.offsets[row + 1])
    values = zip(lists.labels[part].tolist(), lists.similarity[part].tolist(), strict=True)
    return dict(zip(lists.candidates[part].tolist(), values, strict=True))


@pytest.mark.parametrize("positives", ["one", "all"])
@pytest.mark.parametrize("random_candidates", [8, 20])  # permuted whole, and drawn sparsely from about 90
def test_lists_equal_a_literal_loop(positives, random_candidates):
    counts = np.array([3, 1, 5, 2, 4] * 6)
    pool, queries, items, index = world(counts)
    lists = lists_of(
        pool, queries, index, seed=4, random_candidates=random_candidates, hard_negatives=5, positives=positives
    )
    generator = np.random.default_rng(4)
    drawn = draw_distinct(generator, len(pool.gallery) - counts, random_candidates)
    picks = generator.random(len(counts))
    for row in range(len(counts)):
        own = list(range(pool.first[row], pool.last[row]))
        others = [index for index in range(len(pool.gallery)) if index not in own]
        negatives = [others[number] for number in drawn[row]]
        right = [own[int(picks[row] * len(own))]] if positives == "one" else own
        cosine = {index: float(queries[row] @ items[index]) for index in negatives + right}
        hardest = sorted(negatives, key=lambda index: -cosine[index])[:5]
        expected = {pool.gallery[index]: (0.0, cosine[index]) for index in hardest}
        expected |= {pool.gallery[index]: (1.0, cosine[index]) for index in right}
        listed = contents(lists, row)
        assert listed.keys() == expected.keys()
        for item, (label, similarity) in listed.items():
            assert label == expected[item][0]
            assert similarity == pytest.approx(expected[item][1], abs=1e-5)
    assert lists.queries.tolist() == pool.queries.tolist()


def test_lists_by_hand():
    # One dimension: the query's cosine with an item is the item. Query 0 owns the items 0 and 1, query 1 index 2.
    index = faiss.IndexFlatIP(1)
    index.add(np.array([[0.9], [0.8], [0.1], [0.7], [0.3], [0.5]], np.float32))
    gallery = np.array([10, 11, 12, 13, 14, 15])
    pool = QueryPool("i2t", np.array([0, 1]), gallery, np.array([0, 2]), np.array([2, 3]))
    queries = np.array([[1.0], [-1.0]], np.float32)
    lists = lists_of(pool, queries, index, random_candidates=4, hard_negatives=2, positives="all")
    # Query 0 draws all four others, 0.7 and 0.5 are hardest; query 1 looks the other way, and draws 4 of the 5 others.
    first, second = contents(lists, 0), contents(lists, 1)
    assert {item: label for item, (label, _) in first.items()} == {10: 1, 11: 1, 13: 0, 15: 0}
    assert second[12] == (1.0, pytest.approx(-0.1))
    assert (set(second) - {12} <= {13, 14, 15} and 14 in second) or 15 in second
    assert lists.lengths.tolist() == [4, 3]


counts = st.lists(st.integers(1, 6), min_size=4, max_size=12)


@given(counts, st.integers(0, 2**20), st.sampled_from(["one", "all"]), st.data())
def test_no_item_of_the_query_is_ever_a_negative(counts, seed, positives, data):
    pool, queries, _, index = world(np.array(counts), seed)
    available = len(pool.gallery) - max(counts)
    draws = data.draw(st.integers(1, available))
    hard = data.draw(st.integers(1, draws))
    lists = lists_of(pool, queries, index, seed, random_candidates=draws, hard_negatives=hard, positives=positives)
    for row, count in enumerate(counts):
        own = set(pool.gallery[pool.first[row] : pool.last[row]].tolist())
        listed = contents(lists, row)
        assert len(listed) == lists.lengths[row] == hard + (1 if positives == "one" else count)  # each item once
        labelled = {item for item, (label, _) in listed.items() if label == 1}
        assert labelled == listed.keys() & own
        assert len(labelled) == (1 if positives == "one" else count)
        assert {label for label, _ in listed.values()} == {0.0, 1.0}


def test_the_positive_may_stand_anywhere():
    pool, queries, _, index = world(np.array([2] * 400))
    positions = np.zeros(6)
    for seed in range(5):
        lists = lists_of(pool, queries, index, seed, random_candidates=20, hard_negatives=5, positives="one")
        positions += lists.labels.reshape(400, 6).sum(0)
    expected = 5 * 400 / 6
    assert positions == pytest.approx(np.full(6, expected), abs=5 * np.sqrt(expected))


def test_negatives_are_not_in_the_order_of_their_similarity():
    pool, queries, _, index = world(np.array([1] * 100))
    lists = lists_of(pool, queries, index, random_candidates=20, hard_negatives=5, positives="one")
    similarity = lists.similarity.reshape(100, 6)
    falling = (np.diff(similarity, axis=1) <= 0).all(1).mean()
    assert falling < 0.05  # by chance, one order of 6! = 720


def test_lists_of_uneven_length_hold_nothing_but_their_items():
    pool, queries, _, index = world(np.array([1, 6, 2]))
    lists = lists_of(pool, queries, index, random_candidates=3, hard_negatives=2, positives="all")
    assert lists.lengths.tolist() == [3, 8, 4]
    assert lists.labels.sum() == 9
    assert set(lists.candidates.tolist()) <= set(pool.gallery.tolist())


def test_every_item_of_the_query_is_as_likely_the_positive():
    pool, queries, _, index = world(np.array([5] * 300))
    lists = lists_of(pool, queries, index, random_candidates=5, hard_negatives=5, positives="one")
    index_of = {row: index for index, row in enumerate(pool.gallery.tolist())}
    positions = [index_of[item] % 5 for item in lists.candidates[lists.labels == 1].tolist()]
    assert np.bincount(positions) == pytest.approx(np.full(5, 60), abs=5 * np.sqrt(60))
