"""Ranking in the common space: two-stage search against a literal transcription of the paper's Algorithm 1."""

import numpy as np
import pytest

from xmrank.supervised.two_stage_knn import by_distance, label_ranks, neighbour_labels, predict_labels, two_stage

POINTS = np.array([[0.0], [1.0], [2.0], [4.0], [7.0]], np.float32)


def one_hot(numbers, classes):
    return np.eye(classes, dtype=bool)[numbers]


def algorithm_1(query, train, train_labels, item_labels, neighbours):
    """The paper's Algorithm 1, line by line; returns collections of items, in no order within one, and class counts.

    Lines 15 and 19 are determined only where no two counts are equal and no order is asked for within a class.
    """
    distances = [float(np.sqrt(((query - row) ** 2).sum())) for row in train]
    top_k_image_indices = np.argsort(distances)[:neighbours]  # line 5
    class_freq = [0 for _ in range(train_labels.shape[1])]  # line 6
    for i in range(neighbours):  # lines 7 to 14
        index = top_k_image_indices[i]
        for j in range(train_labels.shape[1]):
            if train_labels[index][j] == 1:
                class_freq[j] += 1
    ranked_classes = np.argsort(-np.array(class_freq))  # line 15
    recommendations = []  # line 17
    collections = []
    for i in range(len(ranked_classes)):  # lines 18 to 20
        new = [
            t for t in range(len(item_labels)) if item_labels[t][ranked_classes[i]] == 1 and t not in recommendations
        ]
        collections.append(set(new))
        recommendations += new
    return collections, class_freq


@pytest.mark.parametrize("several", [False, True])
def test_it_equals_algorithm_1_wherever_that_is_determined(several):
    generator = np.random.default_rng(3)
    classes, determined = 4, 0
    train, queries = generator.normal(size=(80, 5)).astype("f4"), generator.normal(size=(120, 5)).astype("f4")
    items = generator.normal(size=(40, 5)).astype("f4")
    train_labels, item_labels = one_hot(generator.integers(0, 4, 80), 4), one_hot(generator.integers(0, 4, 40), 4)
    if several:
        train_labels |= generator.random((80, 4)) < 0.3
        item_labels = generator.random((40, 4)) < 0.4  # some have none
    ranking = two_stage(queries, train, train_labels, items, item_labels, neighbours=13)
    for query, order in zip(queries, ranking.order, strict=True):
        collections, counts = algorithm_1(query, train, train_labels, item_labels, 13)
        assert sorted(order) == list(range(40))
        if len(set(counts)) < classes:
            continue
        determined += 1
        start = 0
        for collection in collections:
            assert set(order[start : start + len(collection)]) == collection
            start += len(collection)
        assert not item_labels[order[start:]].any()  # unlabelled items last, which the algorithm never adds
    assert determined >= 25


def test_within_a_label_items_stand_by_distance():
    labels = one_hot([0, 0, 0, 1, 1], 2)
    items, item_labels = np.array([[5.0], [0.5], [3.0], [0.0]], np.float32), one_hot([0, 1, 0, 1], 2)
    ranking = two_stage(np.zeros((1, 1), np.float32), POINTS, labels, items, item_labels, neighbours=3)
    assert ranking.order.tolist() == [[2, 0, 3, 1]]  # label 0 three times: items at 3 and 5; label 1: at 0 and 0.5
    assert not ranking.tied.any()


def test_equal_counts_go_to_the_nearer_label_then_to_the_smaller_number():
    query = np.zeros((1, 1), np.float32)
    # Label 2 at 0 and 4 (mean 2), label 1 at 1 and 2 (mean 1.5), label 0 at 7; label 3 nowhere.
    assert label_ranks(query, POINTS, one_hot([2, 1, 1, 2, 0], 4), neighbours=5).tolist() == [[2, 0, 1, 3]]
    both = np.array([[1, 0, 1], [0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]], bool)  # labels 0 and 2 always together
    assert label_ranks(query, POINTS, both, neighbours=4).tolist() == [[1, 0, 2]]


def test_labels_that_no_neighbour_carries_follow_by_number():
    ranks = label_ranks(np.zeros((1, 1), np.float32), POINTS, one_hot([3, 3, 1, 0, 2], 5), neighbours=2)
    assert ranks.tolist() == [[1, 2, 3, 0, 4]]


def test_counts_and_mean_distances():
    counts, means = neighbour_labels(np.zeros((1, 1), "f4"), POINTS, one_hot([0, 1, 0, 1, 2], 3), neighbours=4)
    assert counts.tolist() == [[2, 2, 0]]
    assert means[0] == pytest.approx([(0 + 2) / 2, (1 + 4) / 2, np.inf])


def test_an_item_of_several_labels_stands_with_the_first_and_one_without_last():
    labels = one_hot([1, 1, 1, 0, 2], 3)  # the order of labels: 1, then 0 (distance 4), then 2 (distance 7)
    item_labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)
    items = np.array([[1.0], [0.0], [9.0], [8.0], [0.0]], np.float32)
    ranking = two_stage(np.zeros((1, 1), np.float32), POINTS, labels, items, item_labels, neighbours=5)
    assert ranking.order.tolist() == [[3, 2, 0, 4, 1]]


def test_fewer_training_items_than_neighbours_are_all_asked():
    assert label_ranks(np.zeros((1, 1), "f4"), POINTS, one_hot([1, 1, 1, 0, 0], 2), neighbours=50).tolist() == [[1, 0]]


def test_without_a_common_space_the_items_of_a_label_stay_tied():
    items, item_labels = np.zeros((4, 3), np.float32), one_hot([1, 0, 1, 0], 2)
    ranking = two_stage(np.zeros((1, 1), "f4"), POINTS, one_hot([0, 0, 0, 1, 1], 2), items, item_labels, neighbours=3)
    assert ranking.order.tolist() == [[1, 3, 0, 2]]
    assert ranking.tied.tolist() == [[False, True, False, True]]


def test_by_distance_equals_numpy_and_marks_ties():
    generator = np.random.default_rng(0)
    queries, items = generator.normal(size=(300, 6)).astype("f4"), generator.normal(size=(50, 6)).astype("f4")
    items[7] = items[3]
    ranking = by_distance(queries, items)
    expected = np.argsort(((queries[:, None].astype(float) - items[None]) ** 2).sum(-1), axis=1, kind="stable")
    assert (ranking.order == expected).mean() > 0.999  # float32 may exchange two items at the same distance
    assert ranking.tied.sum(axis=1).tolist() == [1] * 300
    assert (ranking.order[ranking.tied] == 7).all()


def test_predicted_labels_are_the_most_frequent_and_with_several_labels_the_frequent_ones():
    query = np.zeros((1, 1), np.float32)
    assert predict_labels(query, POINTS, one_hot([0, 1, 1, 2, 2], 3), neighbours=3).tolist() == [[False, True, False]]
    labels = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    assert predict_labels(query, POINTS, labels, neighbours=4).tolist() == [[True, True, True]]  # 3, 2 and 2 of 4
    assert predict_labels(query, POINTS, labels, neighbours=3).tolist() == [[True, False, True]]  # 3, 1 and 2 of 3
    assert not predict_labels(query, POINTS, np.zeros((5, 3), bool), neighbours=3).any()


def test_more_groups_than_a_key_holds_are_refused(monkeypatch):
    monkeypatch.setattr("xmrank.supervised.two_stage_knn.DISTANCE_BITS", 60)
    with pytest.raises(ValueError, match="too many for one key"):
        by_distance(np.zeros((1, 1), np.float32), np.zeros((9, 1), np.float32))
