"""Import of embeddings that exist."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import ArraySettings
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import ConfigError, DataError

IDS = {
    "image_ids": ["a.jpg", "b.jpg"],
    "caption_ids": [10 * image + index for image in (1, 2) for index in range(5)],
    "split": ["train", "val"],
    "fold": ["align", "test"],
}


def arrays(dimensions=4, dtype="float32"):
    """Two images and ten captions."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(2, dimensions)).astype(dtype), generator.normal(size=(10, dimensions)).astype(dtype)


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def imported(folder, image=None, text=None, ids=None, without=(), **parameters):
    """The manifest of an import; arrays may be replaced, fields of the ids replaced or left out."""
    default_image, default_text = arrays()
    np.save(folder / "I.npy", default_image if image is None else image)
    np.save(folder / "T.npy", default_text if text is None else text)
    content = {key: value for key, value in {**IDS, **(ids or {})}.items() if key not in without}
    (folder / "ids.json").write_text(json.dumps(content))
    return run_import(folder, **parameters)


def run_import(folder, **parameters):
    files = {"import_images": folder / "I.npy", "import_texts": folder / "T.npy", "import_ids": folder / "ids.json"}
    settings = files | {name: parameters.pop(name) for name in {*files, "split_field"} & parameters.keys()}
    return embed(EmbedConfig(**{"output": folder / "store", "dataset": ArraySettings(**settings), **parameters}))


def refusal(folder, *arguments, error=DataError, **parameters):
    with pytest.raises(error) as caught:
        imported(folder, *arguments, **parameters)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def test_the_short_form_takes_five_captions_an_image(folder, capsys):
    manifest = imported(folder)
    store = EmbeddingStore.open(folder / "store")
    assert manifest.counts == {"images": 2, "captions": 10}
    account, last = capsys.readouterr().out.splitlines()
    assert account.endswith("captions an image: 5 to 5, mean 5; splits: train 1, val 1; left out: nothing")
    assert last == f"embed: 2 images, 10 captions in {folder / 'store'}"
    assert store.image_of_caption.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert store.images.to_pylist() == [
        {"row": 0, "image_id": "a.jpg", "split": "train"},
        {"row": 1, "image_id": "b.jpg", "split": "val"},
    ]
    assert store.captions.to_pylist()[5] == {
        "row": 5,
        "caption_id": "20",
        "image_id": "b.jpg",
        "image_row": 1,
        "split": "val",
        "text": None,
    }
    names = {"image.npy", "text.npy", "image.parquet", "text.parquet", "encoder.json"}
    assert {path.name for path in (folder / "store").iterdir()} == names | {"manifest.json", "plan.json"}


def test_a_column_gives_any_number_of_captions_in_any_order(folder):
    column = [1, 0, 1, 1, 0, 1, 1, 1, 1, 1]
    imported(folder, ids={"caption_image": column})
    store = EmbeddingStore.open(folder / "store")
    assert store.image_of_caption.tolist() == column
    assert store.captions["split"].to_pylist() == ["val" if row else "train" for row in column]


def test_captions_are_kept_where_they_are_given(folder):
    texts = [f"a dog number {number}" for number in range(10)]
    imported(folder, ids={"texts": texts})
    assert EmbeddingStore.open(folder / "store").captions["text"].to_pylist() == texts


def test_splits_stand_in_the_field_that_is_named(folder):
    imported(folder, split_field="fold")
    assert EmbeddingStore.open(folder / "store").splits() == ["align", "test"]


def test_embeddings_get_unit_length(folder):
    image, text = arrays()
    imported(folder, 7 * image, text)
    store = EmbeddingStore.open(folder / "store")
    assert store.image == pytest.approx(image / np.linalg.norm(image, axis=1, keepdims=True), abs=1e-6)
    assert np.linalg.norm(store.text, axis=1) == pytest.approx(np.ones(10), abs=1e-6)


@pytest.mark.parametrize(
    ("image_type", "text_type", "stored"),
    [
        ("float16", "float16", "float16"),
        ("float16", "float32", "float32"),
        ("float64", "float64", "float32"),
        (">f4", "float32", "float32"),
    ],
)
def test_float16_is_kept_when_both_sides_are(folder, image_type, text_type, stored):
    image, text = arrays()
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    imported(folder, image.astype(image_type), text.astype(text_type))
    store = EmbeddingStore.open(folder / "store")
    assert store.image.dtype == store.text.dtype == np.dtype(stored)
    assert np.array_equal(store.image, image.astype(image_type).astype(stored))  # of unit length: bit by bit the same


def test_columns_in_fortran_order_are_read(folder):
    image, text = arrays()
    first = imported(folder, image, text)
    again = imported(folder, np.asfortranarray(image), np.asfortranarray(text), output=folder / "again")
    assert again.outputs == first.outputs


def test_a_second_import_is_skipped(folder):
    first = imported(folder)
    (folder / "store" / "image.npy").touch()
    written = (folder / "store" / "manifest.json").stat().st_mtime_ns
    assert run_import(folder) == first
    assert (folder / "store" / "manifest.json").stat().st_mtime_ns == written


def test_other_embeddings_need_overwrite(folder):
    first = imported(folder)
    image, text = arrays()
    assert "store: was made from other images: " in refusal(folder, image[::-1], text)
    assert imported(folder, image[::-1], text, overwrite=True).fingerprint != first.fingerprint


def test_another_split_field_is_refused(folder):
    imported(folder)
    assert 'split_field is "split" there, "fold" here' in refusal(folder, split_field="fold")


def test_a_repaired_file_is_imported_under_the_same_path(folder):
    broken = arrays()[0]
    broken[1, 2] = np.nan
    refusal(folder, broken)
    assert imported(folder).counts["images"] == 2


def test_the_fingerprint_does_not_depend_on_the_path(folder):
    (folder / "elsewhere").mkdir()
    assert imported(folder).fingerprint == imported(folder / "elsewhere").fingerprint


def spoilt(side, row, value):
    image, text = arrays()
    array = {"image": image, "text": text}[side]
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": spoilt("image", 1, np.nan)}, "I.npy: row 1 holds NaN or infinity"),
        ({"text": spoilt("text", 7, np.inf)}, "T.npy: row 7 holds NaN or infinity"),
        ({"text": spoilt("text", [2, 3], 0)}, "T.npy: row 2 holds only zeros (1 more like it)"),
        ({"image": np.ones(2)}, "I.npy: shape [2], expected [items, dimensions]"),
        ({"text": np.ones((10, 2, 2))}, "T.npy: shape [10, 2, 2], expected [items, dimensions]"),
        ({"image": np.ones((2, 4), int)}, "I.npy: type int64, expected floating-point numbers"),
        ({"image": np.ones((3, 4))}, "I.npy: 3 rows, but ids.json has 2 image_ids"),
        ({"text": np.ones((9, 4))}, "T.npy: 9 rows, but ids.json has 10 caption_ids"),
        ({"text": np.ones((10, 3))}, "T.npy: 3 dimensions, but I.npy has 4"),
        ({"ids": {"image_ids": ["a", "a"]}}, 'ids.json: image id "a" occurs more than once'),
        ({"ids": {"caption_ids": [0, 1, 2, 3, 4, 5, 6, 7, 8, "0"]}}, 'ids.json: caption id "0" occurs more than once'),
        ({"ids": {"image_ids": ["a", ""]}}, "ids.json: image id of row 1 is '', expected text or a number"),
        ({"ids": {"image_ids": [None, "a"]}}, "ids.json: image id of row 0 is None, expected text or a number"),
        ({"ids": {"caption_ids": [*range(9), [1]]}}, "ids.json: caption id of row 9 is [1], expected text or a number"),
        ({"ids": {"image_ids": []}, "image": np.ones((0, 4))}, "ids.json: no image ids in it; expected at least one"),
        (
            {"ids": {"caption_ids": []}, "text": np.ones((0, 4))},
            "ids.json: no caption ids in it; expected at least one",
        ),
        ({"ids": {"texts": ["a dog"]}}, "ids.json: texts has 1 values, expected one a caption: 10"),
        ({"ids": {"texts": "a dog"}}, "ids.json: texts has no list, expected one a caption: 10"),
        ({"ids": {"texts": [["a dog"]] * 10}}, "ids.json: texts: row 0 is not text but list"),
        ({"ids": {"texts": ["a dog"] * 9 + [" "]}}, "ids.json: texts: row 9 is empty"),
        ({"without": ["image_ids"]}, "ids.json: no list under image_ids"),
        ({"ids": {"caption_ids": "abc"}}, "ids.json: no list under caption_ids"),
        ({"ids": {"split": ["train"]}}, "ids.json: split has 1 values, expected one an image: 2"),
        ({"ids": {"split": "ab"}}, "ids.json: split has no list, expected one an image: 2"),
        (
            {"ids": {"caption_ids": [1, 2, 3]}},
            "ids.json: 3 caption_ids for 2 image_ids: expected 5 an image, or caption_image with the image row of "
            "every caption",
        ),
        (
            {"ids": {"caption_image": [0, 1]}},
            "ids.json: caption_image: expected a list with one image row a caption: 10",
        ),
        (
            {"ids": {"caption_image": [0, 1, 2, 0, -1, 0, 0, 0, 0, 0]}},
            "ids.json: caption_image: row 2: 2, expected an image row from 0 to 1 (1 more like it)",
        ),
        (
            {"ids": {"caption_image": [0, 1, 1, 0, 0, 0, True, 0, 0, 0]}},
            "ids.json: caption_image: row 6: True, expected an image row from 0 to 1",
        ),
    ],
)
def test_bad_input_is_one_line(folder, change, message):
    assert refusal(folder, **change) == message


def test_an_unknown_split_field_lists_the_fields(folder):
    message = refusal(folder, split_field="part", error=ConfigError)
    assert message == "--split-field part: not in ids.json; its other fields: split, fold"


@pytest.mark.parametrize("flag", ["import_images", "import_texts", "import_ids"])
def test_a_file_that_is_not_there_is_named(folder, flag):
    dashed = f"--{flag.replace('_', '-')}"
    assert refusal(folder, **{flag: folder / "nowhere"}) == f"nowhere: no such file ({dashed})"


class Malice:
    """Unpickling it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused_bytes(folder, content):
    """The message for an import whose image file holds other bytes."""
    imported(folder)
    (folder / "I.npy").write_bytes(content)
    with pytest.raises(DataError) as caught:
        run_import(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pickle_is_refused_and_never_run(folder):
    trap = folder / "sprung"
    assert "I.npy: not an array in .npy form" in refused_bytes(folder, pickle.dumps(Malice(trap)))
    np.save(folder / "trap.npy", np.array([Malice(trap)], object), allow_pickle=True)
    assert "I.npy: not an array in .npy form" in refused_bytes(folder, (folder / "trap.npy").read_bytes())
    assert not trap.exists()


def test_files_that_hold_no_array_are_refused(folder):
    np.savez(folder / "both.npz", I=np.ones((2, 4)))
    np.save(folder / "whole.npy", np.ones((2, 4)))
    whole = (folder / "whole.npy").read_bytes()
    for content in (b"", b"1 2 3\n", whole[:-5], whole.replace(b"}", b" ")):
        assert "I.npy: not an array in .npy form" in refused_bytes(folder, content)
    assert "an archive of arrays" in refused_bytes(folder, (folder / "both.npz").read_bytes())


@pytest.mark.parametrize(("text", "message"), [("{", "ids.json: not JSON: "), ("[]", "no list under image_ids")])
def test_ids_that_are_no_ids_are_refused(folder, text, message):
    imported(folder)
    (folder / "ids.json").write_text(text)
    with pytest.raises(DataError, match=message):
        run_import(folder)
