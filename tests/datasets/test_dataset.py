"""The checks that every data set passes, whatever its reader."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from xmrank.datasets.dataset import CAPTIONS, IMAGES, Dataset, check_dataset
from xmrank.runtime.errors import DataError


def dataset(images, captions):
    """From image ids and (caption id, image id, text)."""
    return Dataset(
        "toy",
        Path("/pictures"),
        pa.Table.from_pylist(
            [{"image_id": i, "location": f"{i}.jpg", "split": "train", "labels": []} for i in images], schema=IMAGES
        ),
        pa.Table.from_pylist(
            [{"caption_id": c, "image_id": i, "text": text, "split": "train"} for c, i, text in captions],
            schema=CAPTIONS,
        ),
    )


def refusal(images, captions):
    with pytest.raises(DataError) as caught:
        check_dataset(dataset(images, captions), "toy.json")
    return str(caught.value)


def test_captions_are_put_into_the_images_order():
    mixed = [("c0", "b", "x"), ("c1", "a", "x"), ("c2", "b", "x"), ("c3", "a", "x"), ("c4", "b", "x")]
    captions = check_dataset(dataset(["b", "a"], mixed), "toy.json").captions
    assert captions["caption_id"].to_pylist() == ["c0", "c2", "c4", "c1", "c3"]
    assert captions["image_id"].to_pylist() == ["b", "b", "b", "a", "a"]
    assert captions.schema == CAPTIONS


def test_an_image_may_have_no_captions():
    assert check_dataset(dataset(["a", "b"], [("c", "b", "x")]), "toy.json").captions["image_id"].to_pylist() == ["b"]


def test_what_is_left_out_is_kept_in_mind():
    given = dataset(["a"], [("c", "a", "x")])
    given.left_out.append({"image_id": "z"})
    assert check_dataset(given, "toy.json").left_out == [{"image_id": "z"}]


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        ([], [], "toy.json: no images in it; expected at least one"),
        (["a"], [], "toy.json: no captions in it; expected at least one"),
        (["a", "b", "a"], [("c", "a", "x")], 'toy.json: image id "a" occurs more than once'),
        (["a"], [("c", "a", "x"), ("c", "a", "y")], 'toy.json: caption id "c" occurs more than once'),
        (["a"], [("c", "a", "")], "toy.json: caption c is empty"),
        (["a"], [("c", "a", " \t\n\u3000")], "toy.json: caption c is empty"),
        (["a"], [("c", "a", None)], "toy.json: caption c is empty"),
        (["a"], [("c", "z", "x")], 'toy.json: caption c belongs to image "z", which is not among the images'),
        (
            ["a"],
            [("c", "y{0}", "x"), ("d", "a", "x"), ("e", "z", "x"), ("f", "z", "x")],
            'toy.json: caption c belongs to image "y{0}", which is not among the images (2 more like it)',
        ),
    ],
)
def test_a_fault_is_one_line_with_the_item(images, captions, message):
    assert refusal(images, captions) == message


def test_the_fingerprint_knows_every_column_but_not_the_folder():
    captions = [("c", "a", "x"), ("d", "b", "y")]
    first = dataset(["a", "b"], captions)
    elsewhere = Dataset("toy", Path("/other"), first.images, first.captions)
    assert elsewhere.fingerprint == first.fingerprint
    assert dataset(["b", "a"], captions).fingerprint != first.fingerprint
    assert dataset(["a", "b"], [("c", "a", "x"), ("d", "b", "z")]).fingerprint != first.fingerprint


def test_the_fingerprint_knows_the_sizes_of_containers():
    plain = dataset(["a"], [("c", "a", "x")])
    held = replace(plain, containers={"a.parquet": 7})
    assert plain.fingerprint != held.fingerprint != replace(plain, containers={"a.parquet": 8}).fingerprint
