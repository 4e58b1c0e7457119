"""Training lists drawn again every epoch: what they hold, and that seed and epoch alone decide it."""

from dataclasses import replace

import numpy as np
import pytest
from plain import plain_training

from xmrank.config import MineConfig
from xmrank.runtime.errors import ConfigError
from xmrank.train.list_sampler import ListSampler
from xmrank.train.schedule import TrainingSchedule

MINING = MineConfig(random_candidates=20, hard_negatives=5)
SUB_GALLERY = {"sampling": "sub-gallery", "sampling_images": 15, "sampling_top": 8}


@pytest.fixture(scope="module")
def store(tiny_store):
    """60 training images with five captions each, mixed with others."""
    return tiny_store(interleaved=True)


def sampler_of(store, direction="i2t", mining=MINING, **changes):
    return ListSampler(store, direction, mining, plain_training(**{"sampling": "random-hard", **changes}))


def images(store):
    return store.image_rows("train")


def rows_of(lists):
    """Each list's candidates."""
    return [lists.candidates[a:b] for a, b in zip(lists.offsets[:-1], lists.offsets[1:], strict=True)]


def owners(store, direction, lists):
    """The image of every list's query, and of every candidate."""
    if direction == "i2t":
        return lists.queries, [store.image_of_caption[rows] for rows in rows_of(lists)]
    return store.image_of_caption[lists.queries], rows_of(lists)


def assert_same(one, other):
    for name in ("queries", "offsets", "candidates", "labels", "similarity"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("draw", ["random-hard", "sub-gallery", "in-batch"])
@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_lists_follow_from_seed_and_epoch(store, direction, draw):
    made = sampler_of(store, direction, **{**SUB_GALLERY, "sampling": draw})
    one = made.draw_lists([images(store)], 3, 7)
    assert_same(
        one, sampler_of(store, direction, **{**SUB_GALLERY, "sampling": draw}).draw_lists([images(store)], 3, 7)
    )
    for seed, epoch in ((3, 8), (4, 7)):
        other = made.draw_lists([images(store)], seed, epoch)
        assert not np.array_equal(one.candidates, other.candidates)


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_random_hard_lists_hold_the_hardest_of_random_items_and_one_positive(store, direction):
    made = sampler_of(store, direction)
    lists = made.draw_lists([images(store)], 0, 1)
    query_images, candidate_images = owners(store, direction, lists)
    assert sorted(query_images) == sorted(images(store)) and len(lists) == made.count_lists(images(store)) == 60
    assert set(lists.lengths) == {6} and made.width == 6
    for query, theirs, labels in zip(query_images, candidate_images, lists.labels.reshape(-1, 6), strict=True):
        assert np.array_equal(labels > 0, theirs == query) and labels.sum() == 1
        assert set(theirs) <= set(images(store))


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_the_rank_of_a_retrieved_positive_does_not_tell_it(tiny_store, direction):
    """Where a positive is as near as any other item, it is among the hardest 6 of 21 in 17 lists of 60."""
    store = tiny_store(interleaved=True, signal=0.0)
    folds = [images(store)]

    def last(lists):
        """In how many lists the positive is the least likely item."""
        furthest = lists.similarity.reshape(60, 6).argmin(1)
        return int((lists.labels.reshape(60, 6)[np.arange(60), furthest] > 0).sum())

    assert last(sampler_of(store, direction).draw_lists(folds, 0, 1)) > 30
    made = sampler_of(store, direction, mining=replace(MINING, positives="all"), sampling_positives="retrieved")
    lists = made.draw_lists(folds, 0, 1)
    assert made.width == 6 and set(lists.lengths) == {6} and len(lists) == made.count_lists(folds[0]) == 60
    assert (lists.labels > 0).sum() >= 8 and last(lists) < 10


def test_retrieved_positives_and_negatives_left_out_are_refused(store):
    made = sampler_of(store, mining=replace(MINING, duplicate_cosine=0.9), sampling_positives="retrieved")
    with pytest.raises(
        ConfigError, match="--sampling-positives retrieved: the lists were mined with --positive-margin or"
    ):
        made.check_folds([images(store)])


def test_the_kept_negatives_are_harder_than_random_ones(store):
    lists = sampler_of(store).draw_lists([images(store)], 0, 1)
    everyone = sampler_of(store, mining=replace(MINING, hard_negatives=20)).draw_lists([images(store)], 0, 1)
    hard, all_drawn = (made.similarity[made.labels == 0].reshape(60, -1) for made in (lists, everyone))
    np.testing.assert_allclose(np.sort(hard), np.sort(all_drawn)[:, -5:], atol=1e-6)


def test_similarities_are_the_first_stages(store):
    for draw in ("random-hard", "sub-gallery"):
        lists = sampler_of(store, **{**SUB_GALLERY, "sampling": draw}).draw_lists([images(store)], 0, 1)
        query_rows = np.repeat(lists.queries, lists.lengths)
        np.testing.assert_allclose(
            lists.similarity, (store.image[query_rows] * store.text[lists.candidates]).sum(1), atol=1e-5
        )


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_sub_galleries_are_searched_as_the_gallery_in_use_is(store, direction):
    made = sampler_of(store, direction, mining=replace(MINING, captions="all"), **SUB_GALLERY)
    lists = made.draw_lists([images(store)], 0, 1)
    query_images, candidate_images = owners(store, direction, lists)
    assert len(lists) == 60
    assert set(lists.lengths) == {8} and made.width == 8
    galleries = {}  # 60 images make four galleries of 15
    for query, theirs, labels in zip(query_images, candidate_images, lists.labels.reshape(-1, 8), strict=True):
        assert np.array_equal(labels > 0, theirs == query)
        galleries.setdefault(int(query), set()).update(theirs.tolist())
    groups = {query: frozenset(others) for query, others in galleries.items()}
    assert all(len(group) <= 15 for group in groups.values())
    assert lists.labels.sum() > len(lists) / 2
    if direction == "i2t":
        assert lists.labels.reshape(-1, 8).sum(1).max() > 1  # siblings stand beside each other


def test_a_sub_gallery_of_all_images_gives_the_nearest_of_all(store):
    lists = sampler_of(store, sampling="sub-gallery", sampling_top=4).draw_lists([images(store)], 0, 1)
    captions = store.caption_rows("train")
    cosine = store.image[lists.queries] @ store.text[captions].T
    best = captions[np.argsort(-cosine, axis=1)[:, :4]]
    assert [set(rows) for rows in rows_of(lists)] == [set(rows) for rows in best]


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_in_batch_lists_hold_the_hardest_of_a_batch_and_the_positive(store, direction):
    made = sampler_of(store, direction, sampling="in-batch", batch_size=8, sampling_top=5)
    lists = made.draw_lists([images(store)], 0, 1)
    query_images, candidate_images = owners(store, direction, lists)
    assert sorted(query_images) == sorted(images(store)) and len(lists) == made.count_lists(images(store)) == 60
    assert made.width == 6
    query_side, gallery_side = (store.image, store.text) if direction == "i2t" else (store.text, store.image)
    for start in range(0, 60, 8):
        batch = query_images[start : start + 8]
        # 60 images make seven batches of 8 and one of 4.
        assert len(batch) == (8 if start < 56 else 4)
        gallery = np.flatnonzero(np.isin(store.image_of_caption, batch)) if direction == "i2t" else np.array(batch)
        for number in range(start, start + len(batch)):
            theirs, rows = candidate_images[number], rows_of(lists)[number]
            labels = lists.labels[lists.offsets[number] : lists.offsets[number + 1]]
            assert np.array_equal(labels > 0, theirs == query_images[number]) and labels.sum() == 1
            owner = store.image_of_caption[gallery] if direction == "i2t" else gallery
            others = gallery[owner != query_images[number]]
            cosine = gallery_side[others] @ query_side[lists.queries[number]]
            assert set(rows[labels == 0]) == set(others[np.argsort(-cosine)[:5]])


def test_in_batch_lists_of_folds_begin_where_batches_begin(store):
    folds = [np.sort(fold) for fold in np.array_split(np.random.default_rng(0).permutation(images(store)), 2)]
    lists = sampler_of(store, "t2i", sampling="in-batch", batch_size=8, sampling_top=5).draw_lists(folds, 0, 1)
    of_fold = np.isin(owners(store, "t2i", lists)[0], folds[0])
    # 30 images a fold: three whole batches each, in random order, then two remainders of 6.
    whole = of_fold[:48].reshape(6, 8)
    assert (whole == whole[:, :1]).all() and 0 < whole[:, 0].sum() < 6
    orders = {tuple(whole[:, 0])}
    assert of_fold[48:].sum() == 6
    for epoch in range(2, 6):
        again = sampler_of(store, "t2i", sampling="in-batch", batch_size=8).draw_lists(folds, 0, epoch)
        orders.add(tuple(np.isin(owners(store, "t2i", again)[0], folds[0])[:48:8]))
    assert len(orders) > 1


def test_in_batch_lists_hold_all_positives_where_the_mined_lists_do(store):
    made = sampler_of(
        store, mining=replace(MINING, positives="all"), sampling="in-batch", batch_size=4, sampling_top=100
    )
    lists = made.draw_lists([images(store)], 0, 1)
    # The width is that of a whole batch: 4 images of 5 captions.
    assert set(lists.lengths) == {20} and made.width == 20
    assert (lists.labels.reshape(-1, 20).sum(1) == 5).all()


def test_in_batch_lists_stay_in_their_order():
    in_batch, drawn = (TrainingSchedule(plain_training(sampling=name), 40) for name in ("in-batch", "random-hard"))
    assert in_batch.order_lists(0, 1).tolist() == list(range(40))
    assert drawn.order_lists(0, 1).tolist() != list(range(40))


def test_a_batch_of_one_image_has_no_negatives():
    with pytest.raises(ConfigError, match="--sampling in-batch: the gallery is --batch-size 1 images"):
        plain_training(sampling="in-batch", batch_size=1)


def test_a_list_keeps_to_the_fold_of_its_query(store):
    folds = np.array_split(np.random.default_rng(0).permutation(images(store)), 2)
    for draw in ("random-hard", "sub-gallery"):
        query_images, candidate_images = owners(
            store, "i2t", sampler_of(store, sampling=draw, sampling_top=8).draw_lists([*map(np.sort, folds)], 0, 1)
        )
        for query, theirs in zip(query_images, candidate_images, strict=True):
            assert set(theirs) <= set(folds[0] if query in folds[0] else folds[1])


def test_another_caption_is_the_query_in_another_epoch(store):
    made = sampler_of(store, "t2i")
    queries = [set(made.draw_lists([images(store)], 0, epoch).queries.tolist()) for epoch in (1, 2)]
    assert len(queries[0]) == 60 and queries[0] != queries[1]


def test_all_positives_are_listed_where_the_mined_lists_have_them(store):
    made = sampler_of(store, mining=replace(MINING, positives="all"))
    lists = made.draw_lists([images(store)], 0, 1)
    assert set(lists.lengths) == {10} and made.width == 10
    assert (lists.labels.reshape(-1, 10).sum(1) == 5).all()


def test_a_small_fold_gives_what_it_has(store):
    mining = replace(MINING, random_candidates=70, hard_negatives=65)
    made = sampler_of(store, "t2i", mining=mining)
    # 60 images: 59 are not the caption's own, and all of them are in its list.
    assert made.check_folds([images(store)]).startswith("t2i lists are the hardest of 59 random candidates, not of 70")
    lists = made.draw_lists([images(store)], 0, 1)
    assert set(lists.lengths) == {60} and made.width == 66
    assert (np.sort(lists.candidates.reshape(60, 60)) == images(store)).all()
    assert (
        sampler_of(store, "t2i", mining=replace(mining, random_candidates=59, hard_negatives=5)).check_folds(
            [images(store)]
        )
        == ""
    )
    with pytest.raises(ConfigError, match="a fold of the training images has no t2i items of other images"):
        made.check_folds([images(store)[:1]])


def test_lists_of_another_strategy_are_drawn_as_long_as_they_are(store):
    mining = replace(MINING, strategy="top-k", random_candidates=10, hard_negatives=30)
    assert set(sampler_of(store, mining=mining).draw_lists([images(store)], 0, 1).lengths) == {31}


def test_positives_are_retrieved_unless_the_mined_lists_leave_out_likely_positives(store):
    assert sampler_of(store, sampling_positives="auto").list_config.positives == "retrieved"
    mining = replace(MINING, duplicate_cosine=0.9)
    made = sampler_of(store, mining=mining, sampling_positives="auto")
    assert made.list_config.positives == "one" and made.check_folds([images(store)]) == ""


def test_labels_are_graded_only_where_asked(store):
    made = sampler_of(store, mining=replace(MINING, relevance="captions"))
    graded, binary = (made.draw_lists([images(store)], 0, 1, graded=graded) for graded in (True, False))
    assert (graded.labels > 0).all()
    assert set(binary.labels) == {0, 1} and (binary.labels.reshape(60, 6).sum(1) == 1).all()
