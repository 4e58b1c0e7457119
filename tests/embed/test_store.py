"""The embedding store, and what may become a side of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmrank.embed.store import EmbeddingStore, check_embeddings, normalised
from xmrank.runtime.errors import DataError


def test_a_store_opens_with_all_that_belongs_to_it(tiny_store):
    store = tiny_store(splits={"train": 4, "test": 2}, captions=[1, 2, 3, 0, 1, 1], dimensions=8)
    assert (store.image.shape, store.text.shape, store.dimensions) == ((6, 8), (8, 8), 8)
    assert isinstance(store.image, np.memmap)
    assert store.image_of_caption.tolist() == [0, 1, 1, 2, 2, 2, 4, 5]
    assert store.image_of_caption.dtype == np.int64
    assert store.splits() == ["test", "train"]
    rows = {split: store.image_rows(split).tolist() for split in store.splits()}
    assert sorted(rows["train"] + rows["test"]) == [0, 1, 2, 3, 4, 5]
    assert [len(rows["train"]), len(rows["test"])] == [4, 2]
    assert all(store.images["split"][row].as_py() == "test" for row in rows["test"])
    assert store.image_rows("nowhere").tolist() == []
    assert store.encoder["name"] == "imported" and store.images_root is None
    assert store.fingerprint == store.manifest.fingerprint


def test_captions_may_stand_in_any_order(tiny_store):
    store = tiny_store(splits={"train": 3}, captions=2, interleaved=True)
    assert sorted(store.image_of_caption.tolist()) == [0, 0, 1, 1, 2, 2]
    assert store.captions["image_id"].to_pylist() == [f"image{row}" for row in store.image_of_caption]


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="no finished output of the stage embed"):
        EmbeddingStore.open(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3), "I.npy: shape [3], expected [items, dimensions]"),
        (np.ones((3, 0)), "I.npy: shape [3, 0], expected [items, dimensions]"),
        (np.ones((3, 2), int), "I.npy: type int64, expected floating-point numbers"),
        (np.ones((3, 2), complex), "I.npy: type complex128, expected floating-point numbers"),
        (np.array([[1, 0], [1, np.nan], [0, 1]]), "I.npy: row 1 holds NaN or infinity"),
        (np.array([[1, 0], [np.inf, 0], [0, -np.inf]]), "I.npy: row 1 holds NaN or infinity (1 more like it)"),
        (np.array([[1, 0], [0, 1], [1e300, 0]]), "I.npy: row 2 holds NaN or infinity"),  # beyond float32
        (np.array([[1, 0], [0, 0], [0, 0]]).astype(np.float16), "I.npy: row 1 holds only zeros (1 more like it)"),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 100])
def test_a_row_that_cannot_be_used_is_named(array, message, block):
    with pytest.raises(DataError) as caught:
        check_embeddings(array, "I.npy", block=block)
    # Only the rows of the first block with a fault are counted.
    assert str(caught.value).split(" (")[0] == message.split(" (")[0]
    if block == 100:
        assert str(caught.value) == message


def test_normalising_by_hand():
    rows = normalised(np.array([[3.0, 4.0], [0.0, -2.0]]), np.dtype(np.float32))
    assert rows.dtype == np.float32
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, -1.0]]


def test_rows_of_unit_length_stay_as_they_are():
    row = np.array([[0.6, 0.8], [0.6003, 0.8004]], np.float16)  # the second is of length 1.0005
    assert normalised(row, np.dtype(np.float16)).tolist() == row.tolist()
    assert normalised(np.array([[0.6012, 0.8016]]), np.dtype(np.float32)).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)]
    ]


@given(st.floats(-30, 30), st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_rows_of_any_size_get_unit_length(exponent, values):
    row = np.array([[*values, 1.0]]) * 10.0**exponent
    unit = normalised(row, np.dtype(np.float32)).astype(np.float64)
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1.1e-3)
    assert unit / np.linalg.norm(unit) == pytest.approx(row / np.linalg.norm(row), abs=1e-4)
