"""What is ranked: mined lists, the whole gallery, the first stage's top N of it, spelled out on four pictures."""

import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from xmrank.config.evaluate import folds_of
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols.galleries import (
    GalleryProtocol,
    ListProtocol,
    check_galleries,
    make_galleries,
    make_gallery_pool,
    make_list_protocol,
    make_tops,
    measure_gallery,
)
from xmrank.runtime.errors import ConfigError


def at(*degrees):
    """Unit vectors of the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


# Images 0 to 3; 1 is of another split, 3 has no caption. Captions are not in the order of the images.
STORE = SimpleNamespace(
    image=at(0, 90, 30, 60),
    text=at(10, 91, 50, 40, 22),
    image_of_caption=np.array([0, 1, 2, 0, 2]),
    images=pa.table({"image_id": ["a", "b", "c", "d"]}),
    captions=pa.table({"caption_id": ["a0", "b0", "c0", "a1", "c1"]}),
)
REPORTED = np.array([0, 2, 3])


def lists_of(*lists):
    """Lists of (query, candidates, labels)."""
    lengths = [len(candidates) for _, candidates, _ in lists]
    return CandidateLists(
        np.array([query for query, _, _ in lists], np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([candidates for _, candidates, _ in lists]).astype(np.int32),
        np.concatenate([labels for _, _, labels in lists]).astype(np.float32),
        np.zeros(sum(lengths), np.float32),
    )


def full(direction):
    """The gallery of all reported images."""
    return make_galleries(STORE, REPORTED, direction)[0]


def test_a_mined_query_has_the_positives_of_its_list():
    protocol = make_list_protocol(lists_of((0, [3, 1], [0, 1]), (2, [0, 2, 4], [0, 1, 0.5]), (3, [1], [0])), "i2t")
    assert protocol.name == "lists"
    assert protocol.positives.tolist() == [1, 2, 0]


def test_images_with_captions_ask_for_all_captions_of_the_reported_images():
    pool = make_gallery_pool(STORE, REPORTED, "i2t")
    assert pool.queries.tolist() == [0, 2]
    assert pool.gallery.tolist() == [0, 3, 2, 4]  # image by image
    assert list(zip(pool.first.tolist(), pool.last.tolist(), strict=True)) == [(0, 2), (2, 4)]


def test_captions_of_the_reported_images_ask_for_all_of_them():
    pool = make_gallery_pool(STORE, REPORTED, "t2i")
    assert pool.queries.tolist() == [0, 3, 2, 4]
    assert pool.gallery.tolist() == [0, 2, 3]
    assert pool.first.tolist() == [0, 0, 1, 1]
    assert (pool.last - pool.first).tolist() == [1, 1, 1, 1]


def test_the_whole_gallery_by_hand_from_images():
    # From image 0 (0°) captions lie at 10° (its own), 22°, 40° (its own), 50°: ranks 1 and 3.
    # From image 2 (30°) they lie 20°, 10°, 20° (its own), 8° (its own) away; the others of 10° and 20° are image 0's.
    metrics = measure_gallery(STORE, full("i2t"))
    assert metrics["hit@1"].tolist() == [1, 1]
    assert metrics["recall@1"].tolist() == [1 / 2, 1 / 2]
    assert metrics["recall@5"].tolist() == [1, 1]
    assert metrics["mrr"].tolist() == [1, 1]


def test_the_whole_gallery_by_hand_from_captions():
    # Images at 0° (0), 30° (2), 60° (3). Captions 10°: 0 first. 40°: 2, 3, then its own 0. 50°: 3, then its own 2.
    # 22°: its own 2 first.
    metrics = measure_gallery(STORE, full("t2i"))
    assert metrics["hit@1"].tolist() == [1, 0, 0, 1]
    assert metrics["mrr"] == pytest.approx([1, 1 / 3, 1 / 2, 1])


def test_the_top_of_the_gallery_holds_labels_similarities_and_all_positives():
    (protocol,) = make_tops(STORE, full("i2t"), [2])
    assert protocol.name == "top-2"
    # Of image 0 the two nearest captions are 0 (10°) and 4 (22°); of image 2 they are 4 (8°) and 3 (10°).
    assert protocol.lists.queries.tolist() == [0, 2]
    assert protocol.lists.candidates.tolist() == [0, 4, 3, 4]
    assert protocol.lists.labels.tolist() == [1, 0, 0, 1]
    assert protocol.lists.similarity == pytest.approx(np.cos(np.radians([10, 22, 10, 8])), abs=1e-6)
    assert protocol.positives.tolist() == [2, 2]  # in the gallery, not only in the top


def test_the_top_does_not_leak_its_order():
    (protocol,) = make_tops(STORE, full("t2i"), [3])
    assert protocol.lists.candidates.reshape(4, 3).tolist() == [[0, 2, 3]] * 4  # ascending rows, nearest or not


def test_a_top_longer_than_the_gallery_is_the_gallery():
    (protocol,) = make_tops(STORE, full("t2i"), [100])
    assert protocol.name == "top-3"
    assert protocol.lists.lengths.tolist() == [3, 3, 3, 3]


def test_recall_in_the_top_counts_what_the_top_missed():
    (protocol,) = make_tops(STORE, full("i2t"), [2])
    metrics = protocol.measure(protocol.lists.similarity)
    assert metrics["hit@1"].tolist() == [1, 1]
    assert metrics["recall@5"].tolist() == [1 / 2, 1 / 2]  # one of two captions; the other is not among the two nearest


def test_scores_are_flat_as_the_lists_are():
    lists = lists_of((0, [3, 1], [0, 1]), (2, [0, 2, 4], [0, 1, 0]))
    protocol = ListProtocol("lists", "i2t", lists, np.array([1, 1]))
    matrix, labels, mask = protocol.pad_scores(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert matrix.tolist() == [[1, 2, 0], [3, 4, 5]]
    assert labels.tolist() == [[0, 1, 0], [0, 1, 0]]
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    # The positives are first of [2, 1] and second of [5, 4, 3].
    assert protocol.measure(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))["mrr"].tolist() == [1, 1 / 2]


def test_every_depth_holds_the_first_places_of_the_deepest():
    tops = make_tops(STORE, full("i2t"), [3, 1, 100, 2])
    assert [top.name for top in tops] == ["top-1", "top-2", "top-3", "top-4"]
    items = [[set(part) for part in np.split(top.lists.candidates, 2)] for top in tops]
    for shallow, deep in itertools.pairwise(items):
        assert all(one < other for one, other in zip(shallow, deep, strict=True))
    assert items[0] == [{0}, {4}]


def test_folds_are_searched_each_alone():
    # Two folds of one image: image 0 has captions 0 and 3, image 2 has 2 and 4; each finds its own only.
    _, one, folds = make_galleries(STORE, REPORTED, "i2t", ["2", "2x1"])
    assert (one.name, folds.name) == ("gallery-2", "gallery-2x1")
    assert [pool.gallery.tolist() for pool in one.pools] == [[0, 3, 2, 4]]
    assert [pool.gallery.tolist() for pool in folds.pools] == [[0, 3], [2, 4]]
    assert measure_gallery(STORE, folds)["recall@5"].tolist() == [1, 1]
    (top,) = make_tops(STORE, folds, [1])
    assert (top.name, one.top_name(10)) == ("top-1-of-2x1", "top-10-of-2")
    assert top.lists.queries.tolist() == [0, 2]
    assert top.lists.candidates.tolist() == [0, 4]
    assert top.positives.tolist() == folds.positives.tolist() == [2, 2]
    pairs = list(zip(*(part.tolist() for part in folds.relevant_pairs()), strict=True))
    assert pairs == [(0, 0), (0, 3), (1, 2), (1, 4)]


def test_the_mean_over_folds_is_the_mean_of_the_folds():
    _, folds = make_galleries(STORE, REPORTED[:2], "t2i", ["2x1"])
    alone = [measure_gallery(STORE, GalleryProtocol("gallery", (pool,)))["mrr"].mean() for pool in folds.pools]
    assert measure_gallery(STORE, folds)["mrr"].mean() == pytest.approx(np.mean(alone))


def test_what_is_relevant_in_the_full_gallery():
    assert [part.tolist() for part in full("t2i").relevant_pairs()] == [[0, 1, 2, 3], [0, 0, 2, 2]]


def test_a_gallery_of_more_images_than_there_are_is_refused():
    check_galleries(["1000", "5x1000"], 5000, "test")
    with pytest.raises(ConfigError, match=r"--galleries 5x1000: needs 5,000 images, the reported split val has 1,000"):
        check_galleries(["1000", "5x1000"], 1000, "val")


@pytest.mark.parametrize("wrong", ["0", "5x", "x1000", "1k", "5x0", "-1"])
def test_a_gallery_that_is_no_number_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"--galleries .*: expected a number of images"):
        folds_of(wrong)


def test_the_oracle_is_the_ceiling():
    # Of image 0's two captions the first 2 of the gallery hold one: hit@1 is 1, recall@5 1/2.
    (protocol,) = make_tops(STORE, full("i2t"), [2])
    best = protocol.measure(protocol.lists.labels)
    assert best["hit@1"].tolist() == [1, 1]
    assert best["recall@5"].tolist() == [1 / 2, 1 / 2]
    any_other = protocol.measure(np.random.default_rng(0).normal(size=4))
    assert all((best[metric] >= any_other[metric]).all() for metric in best)
