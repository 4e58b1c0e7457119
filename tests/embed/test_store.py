"""The embedding store, and what may become a side of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmrank.embed.store import EmbeddingStore, check_embeddings, find_images_root, to_unit_length
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import Manifest


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
    rows = to_unit_length(np.array([[3.0, 4.0], [0.0, -2.0]]), np.dtype(np.float32))
    assert rows.dtype == np.float32
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, -1.0]]


def test_rows_of_unit_length_stay_as_they_are():
    row = np.array([[0.6, 0.8], [0.6003, 0.8004]], np.float16)  # the second is of length 1.0005
    assert to_unit_length(row, np.dtype(np.float16)).tolist() == row.tolist()
    assert to_unit_length(np.array([[0.6012, 0.8016]]), np.dtype(np.float32)).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)]
    ]


@given(st.floats(-30, 30), st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_rows_of_any_size_get_unit_length(exponent, values):
    row = np.array([[*values, 1.0]]) * 10.0**exponent
    unit = to_unit_length(row, np.dtype(np.float32)).astype(np.float64)
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1.1e-3)
    assert unit / np.linalg.norm(unit) == pytest.approx(row / np.linalg.norm(row), abs=1e-4)


def test_a_store_of_arrays_has_all_that_is_read_from_a_store():
    image = np.array([[3, 4], [0, 2], [1, 0]], np.float64)
    text = np.array([[1, 1], [0, 5], [2, 0], [4, 3]], np.float64)
    store = EmbeddingStore.from_arrays(
        image,
        text,
        caption_image=np.array([2, 0, 0, 1]),
        image_ids=["a", "b", "c"],
        caption_ids=[10, 11, 12, 13],
        splits=["train", "val", "train"],
    )
    assert store.image.dtype == store.text.dtype == np.float32
    assert store.image.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 1], [1, 0]]
    assert store.image_of_caption.tolist() == [2, 0, 0, 1]
    assert store.captions["caption_id"].to_pylist() == ["10", "11", "12", "13"]
    assert store.captions["image_id"].to_pylist() == ["c", "a", "a", "b"]
    assert store.splits() == ["train", "val"]
    assert (store.image_rows("train").tolist(), store.caption_rows("train").tolist()) == ([0, 2], [0, 1, 2])
    assert store.gather("text", np.array([1])).tolist() == [[0, 1]]
    assert (store.dimensions, store.encoder["name"], store.images_root) == (2, "imported", None)
    assert store.path is None and store.label == "the embeddings"
    store.verify()
    with pytest.raises(DataError, match="these embeddings are in memory"):
        _ = store.directory


def test_captions_of_arrays_are_image_by_image_and_train_without_more_being_said():
    store = EmbeddingStore.from_arrays(np.eye(2), np.ones((6, 2)))
    assert store.image_of_caption.tolist() == [0, 0, 0, 1, 1, 1]
    assert store.splits() == ["train"]
    assert store.images["image_id"].to_pylist() == ["0", "1"]


def test_float16_and_arrays_of_unit_length_are_kept():
    image, text = np.eye(2, dtype=np.float16), np.eye(2, dtype=np.float16)
    store = EmbeddingStore.from_arrays(image, text)
    assert store.image.dtype == store.text.dtype == np.float16
    assert EmbeddingStore.from_arrays(image, text, normalise=False).image is image
    with pytest.raises(DataError, match=r"text: row 1 has length 2, expected 1 \(or normalise=True\)"):
        EmbeddingStore.from_arrays(image, np.array([[1.0, 0], [0, 2]]), normalise=False)


def test_the_fingerprint_of_arrays_is_of_their_contents():
    image, text = np.eye(3), np.eye(3)
    first = EmbeddingStore.from_arrays(image, text)
    assert first.fingerprint == EmbeddingStore.from_arrays(image.copy(), text.copy()).fingerprint
    others = [
        EmbeddingStore.from_arrays(image[::-1], text),
        EmbeddingStore.from_arrays(image, text[::-1]),
        EmbeddingStore.from_arrays(image, text, splits=["train", "train", "val"]),
        EmbeddingStore.from_arrays(image, text, caption_image=[0, 1, 1]),
        EmbeddingStore.from_arrays(image, text, caption_ids=["x", "y", "z"]),
        EmbeddingStore.from_arrays(image.astype(np.float16), text.astype(np.float16)),
    ]
    assert len({store.fingerprint for store in [first, *others]}) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.ones(2)}, "image: shape [2], expected [items, dimensions]"),
        ({"text": np.ones((4, 3))}, "text: 3 dimensions, but image has 2"),
        ({"text": np.array([[1, 0], [0, np.nan]])}, "text: row 1 holds NaN or infinity"),
        ({"image": np.zeros((2, 2))}, "image: row 0 holds only zeros (1 more like it)"),
        ({"text": np.ones((3, 2))}, "caption_image: expected the image row of every caption (3 for 2 images)"),
        ({"caption_image": [0]}, "caption_image: 1 values, expected one for each row: 2"),
        ({"caption_image": [0, 2]}, "caption_image: row 1: 2, expected an image row from 0 to 1"),
        ({"image_ids": ["a", "a"]}, 'image_ids: id "a" occurs more than once'),
        ({"caption_ids": ["a"]}, "caption_ids: 1 values, expected one for each row: 2"),
        ({"splits": ["train"]}, "splits: 1 values, expected one for each row: 2"),
    ],
)
def test_arrays_that_are_no_store_are_refused(changes, message):
    arguments = {"image": np.ones((2, 2)), "text": np.ones((2, 2))} | changes
    image, text = arguments.pop("image"), arguments.pop("text")
    with pytest.raises(DataError) as caught:
        EmbeddingStore.from_arrays(image, text, **arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("root", [5, ["/"], {"a": 1}, True, "/a\0b"])
def test_an_image_folder_that_is_no_path_is_one_line(root):
    manifest = Manifest("embed", {}, {}, {}, settings={"images_root": root})
    with pytest.raises(
        DataError, match=r"manifest.json of the embeddings: images_root is .*, expected a path or a URI"
    ):
        find_images_root(manifest)
    assert find_images_root(Manifest("embed", {}, {}, {}, settings={"images_root": ""})) is None
