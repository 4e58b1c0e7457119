"""Queries, galleries and positives."""

import numpy as np
import pytest

from xmrank.mine.pool import captions_of, make_pool, one_per_image
from xmrank.mine.roles import RoleImages

COUNTS = [2, 0, 3, 1, 4]
"""Captions of the images 0 … 4."""


@pytest.fixture(scope="module", params=[False, True], ids=["image by image", "interleaved"])
def store(request, tiny_store):
    return tiny_store(splits={"train": 5}, captions=COUNTS, interleaved=request.param)


def part(*images):
    return RoleImages("train", "train", np.array(images))


def test_captions_stand_image_by_image(store):
    rows, owner = captions_of(store, np.array([0, 2, 4]))
    assert owner.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]  # indices in the images given
    assert store.image_of_caption[rows].tolist() == [0, 0, 2, 2, 2, 4, 4, 4, 4]
    for image in range(3):
        assert (np.diff(rows[owner == image]) > 0).all()


def test_an_image_asks_for_all_captions_of_its_part(store):
    pool = make_pool(store, part(0, 1, 2, 4), "i2t")
    assert pool.queries.tolist() == [0, 2, 4]  # image 1 has nothing to find
    assert store.image_of_caption[pool.gallery].tolist() == [0, 0, 2, 2, 2, 4, 4, 4, 4]
    assert (pool.first.tolist(), pool.last.tolist()) == ([0, 2, 5], [2, 5, 9])


def test_a_caption_asks_for_all_images_of_its_part(store):
    pool = make_pool(store, part(0, 1, 2, 4), "t2i")
    assert pool.gallery.tolist() == [0, 1, 2, 4]  # image 1 can be retrieved, although it is the positive of no query
    assert store.image_of_caption[pool.queries].tolist() == [0, 0, 2, 2, 2, 4, 4, 4, 4]
    assert pool.first.tolist() == [0, 0, 2, 2, 2, 3, 3, 3, 3]
    assert (pool.last - pool.first).tolist() == [1] * 9


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_a_querys_own_items_are_those_of_its_image(store, direction):
    pool = make_pool(store, part(0, 1, 2, 3, 4), direction)
    image_of = store.image_of_caption
    for query, first, last in zip(pool.queries, pool.first, pool.last, strict=True):
        own = set(range(first, last))
        for index, item in enumerate(pool.gallery):
            same = item == image_of[query] if direction == "t2i" else image_of[item] == query
            assert (index in own) == same


def test_one_caption_an_image_asks(store):
    pool = make_pool(store, part(0, 1, 2, 3, 4), "t2i")
    chosen = one_per_image(pool, np.random.default_rng(0))
    assert store.image_of_caption[chosen.queries].tolist() == [0, 2, 3, 4]
    assert chosen.first.tolist() == [0, 2, 3, 4] and chosen.last.tolist() == [1, 3, 4, 5]
    assert chosen.gallery is pool.gallery


def test_every_caption_of_an_image_is_as_likely_to_ask(store):
    pool = make_pool(store, part(0, 1, 2, 3, 4), "t2i")
    generator = np.random.default_rng(0)
    times = np.zeros(len(store.text))
    for _ in range(1200):
        times[one_per_image(pool, generator).queries] += 1
    expected = 1200 / np.array(COUNTS)[store.image_of_caption]
    assert (np.abs(times - expected) <= 5 * np.sqrt(expected)).all()
    assert (times[expected == 1200] == 1200).all()


def test_a_slice_of_a_pool_keeps_the_gallery(store):
    pool = make_pool(store, part(0, 2, 3, 4), "i2t")[1:3]
    assert pool.queries.tolist() == [2, 3]
    assert (pool.first.tolist(), pool.last.tolist(), len(pool.gallery)) == ([2, 5], [5, 6], 10)
