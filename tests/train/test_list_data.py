"""Batches: the right rows of the right side, padding masked, and an order that follows from seed and epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xmrank.mine.candidate_lists import CandidateLists
from xmrank.train.list_data import ListData, gather_stacked_batch
from xmrank.train.schedule import epoch_order

IMAGES = np.array([[0.0, 1.0], [0.1, 1.0], [0.2, 1.0]], np.float16)
CAPTIONS = np.array([[5.0, 0.0], [5.1, 0.0], [5.2, 0.0], [5.3, 0.0]], np.float16)
CPU = torch.device("cpu")


class Store:
    """The two sides of a store."""

    image, text = IMAGES, CAPTIONS


def lists_of(queries, *items):
    """Lists with the candidate rows given; the first of each is relevant, similarity is a tenth of the row."""
    lengths = np.array([len(rows) for rows in items])
    flat = np.concatenate(items)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.zeros(len(flat), np.float32)
    labels[offsets[:-1]] = 1
    return CandidateLists(
        np.array(queries, np.int32), offsets, flat.astype(np.int32), labels, (flat / 10).astype(np.float32)
    )


def test_in_a_stacked_batch_each_ranker_has_its_own_lists():
    one, other = (
        ListData.of(lists_of([2, 0], *rows), Store, "i2t", CPU) for rows in (([3, 1], [0, 2]), ([1, 2], [2, 3]))
    )
    together = gather_stacked_batch([one, other], [np.array([0, 1]), np.array([1, 0])])
    for half, part in (
        (slice(0, 2), one.gather_batch(np.array([0, 1]))),
        (slice(2, 4), other.gather_batch(np.array([1, 0]))),
    ):
        for name in ("query", "candidates", "similarity", "labels", "mask"):
            tensor = getattr(part, name)
            assert torch.equal(getattr(together, name)[half], tensor), name


def test_batches_can_be_wider_than_the_longest_list():
    data = ListData.of(lists_of([0], [1, 2]), Store, "i2t", CPU)
    wide = replace(data, width=4).gather_batch(np.array([0]))
    assert wide.mask.tolist() == [[True, True, False, False]]
    assert torch.equal(wide.candidates[:, :2], data.gather_batch(np.array([0])).candidates)


def test_i2t_batches_have_image_queries_and_caption_candidates():
    batch = ListData.of(lists_of([2, 0], [3, 1], [0, 2]), Store, "i2t", CPU).gather_batch(np.array([0, 1]))
    assert batch.query.tolist() == IMAGES[[2, 0]].tolist()
    assert batch.candidates.tolist() == [CAPTIONS[[3, 1]].tolist(), CAPTIONS[[0, 2]].tolist()]


def test_t2i_batches_have_caption_queries_and_image_candidates():
    batch = ListData.of(lists_of([3], [2, 0, 1]), Store, "t2i", CPU).gather_batch(np.array([0]))
    assert batch.query.tolist() == CAPTIONS[[3]].tolist()
    assert batch.candidates.tolist() == [IMAGES[[2, 0, 1]].tolist()]


def test_a_batch_holds_the_given_lists_in_their_order():
    data = ListData.of(lists_of([0, 1, 2], [0], [1], [2]), Store, "i2t", CPU)
    assert data.gather_batch(np.array([2, 0])).query.tolist() == IMAGES[[2, 0]].tolist()


def test_short_lists_are_padded_behind_a_mask():
    batch = ListData.of(lists_of([0, 1], [1], [3, 2, 1]), Store, "i2t", CPU).gather_batch(np.array([0, 1]))
    assert batch.mask.tolist() == [[True, False, False], [True, True, True]]
    assert batch.labels.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert batch.similarity[0].tolist() == pytest.approx([0.1, 0, 0])
    assert batch.similarity[1].tolist() == pytest.approx([0.3, 0.2, 0.1])
    assert batch.candidates[1].tolist() == CAPTIONS[[3, 2, 1]].tolist()


def test_every_batch_is_as_wide_as_the_longest_of_all_lists():  # so that dropout draws alike whatever the batch
    data = ListData.of(lists_of([0, 1], [1, 2], [3, 2, 1]), Store, "i2t", CPU)
    assert data.gather_batch(np.array([0])).labels.shape == (1, 3)


def test_a_batch_of_no_lists_has_the_shapes_of_one():
    batch = ListData.of(lists_of([0], [1]), Store, "i2t", CPU).gather_batch(np.array([], np.int64))
    assert (batch.query.shape, batch.candidates.shape) == ((0, 2), (0, 1, 2))
    assert batch.mask.shape == batch.labels.shape == batch.similarity.shape == (0, 1)


def test_embeddings_keep_the_number_format_of_the_store_until_the_ranker_reads_them():
    data = ListData.of(lists_of([0], [1]), Store, "i2t", CPU)
    batch = data.gather_batch(np.array([0]))
    assert (batch.query.dtype, batch.candidates.dtype) == (torch.float16, torch.float16)
    assert (batch.labels.dtype, batch.similarity.dtype, batch.mask.dtype) == (torch.float32, torch.float32, torch.bool)


def test_on_a_cpu_the_store_is_not_copied():
    image = np.zeros((3, 2), np.float32)
    store = type("Store", (), {"image": image, "text": CAPTIONS})
    data = ListData.of(lists_of([0], [1]), store, "i2t", CPU)
    image[1, 1] = 7
    assert data.queries[1, 1] == 7


def test_the_order_follows_from_seed_and_epoch_alone():
    order = epoch_order(50, seed=3, epoch=2)
    np.random.seed(99)  # noqa: NPY002  (the global state is what must not matter)
    torch.manual_seed(99)
    assert epoch_order(50, seed=3, epoch=2).tolist() == order.tolist()
    assert sorted(order) == list(range(50))
    assert epoch_order(50, seed=3, epoch=3).tolist() != order.tolist()
    assert epoch_order(50, seed=4, epoch=2).tolist() != order.tolist()
