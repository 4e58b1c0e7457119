"""The reader of Karpathy's JSON."""

import copy
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from xmrank.datasets.reader_settings import KarpathySettings
from xmrank.datasets.readers import read_dataset
from xmrank.runtime.errors import DataError

SAMPLE = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014",
            "sentids": [770337, 771687],
            "filename": "COCO_val2014_000000391895.jpg",
            "imgid": 0,
            "split": "test",
            "cocoid": 391895,
            "sentences": [
                {"tokens": ["a", "man"], "raw": "A man with a red helmet. ", "imgid": 0, "sentid": 770337},
                {"tokens": ["man", "riding"], "raw": "Man riding a motor bike.", "imgid": 0, "sentid": 771687},
            ],
        },
        {
            "filename": "1000092795.jpg",
            "split": "restval",
            "sentences": [{"raw": "Two young guys."}, {"raw": "Two men in green shirts."}, {"raw": "A man in blue."}],
        },
        {"filename": "10002456.jpg", "split": "val", "sentences": [], "fold": "align"},
    ],
}


@pytest.fixture
def files(tmp_path):
    """The folder of the annotations and the pictures."""
    (tmp_path / "pictures").mkdir()
    return tmp_path


def read_sample(files, content=SAMPLE, max_broken=0.01, **parameters):
    path = files / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_dataset(KarpathySettings(annotations=path, images=files / "pictures", **parameters), max_broken)


def changed(**values):
    """The sample's entries, the middle one with other values (None: without the field)."""
    content = copy.deepcopy(SAMPLE)
    entry = content["images"][1]
    entry.update(values)
    for name in [name for name, value in values.items() if value is None]:
        del entry[name]
    return content


def refusal(files, content, **parameters):
    with pytest.raises(DataError) as caught:
        read_sample(files, content, **parameters)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sample_becomes_two_tables(files):
    dataset = read_sample(files, max_broken=0.5)
    assert dataset.left_out == [{"image_id": "10002456.jpg", "reason": "has no caption", "captions": 0}]
    assert dataset.root == files / "pictures"
    assert dataset.images.to_pylist() == [
        {
            "image_id": "COCO_val2014_000000391895.jpg",
            "location": "val2014/COCO_val2014_000000391895.jpg",
            "split": "test",
            "labels": [],
        },
        {"image_id": "1000092795.jpg", "location": "1000092795.jpg", "split": "train", "labels": []},  # restval
    ]
    captions = dataset.captions
    assert captions["caption_id"].to_pylist() == [
        "770337",
        "771687",
        "1000092795.jpg#0",
        "1000092795.jpg#1",
        "1000092795.jpg#2",
    ]
    assert captions["text"].to_pylist()[:3] == [
        "A man with a red helmet.",
        "Man riding a motor bike.",
        "Two young guys.",
    ]
    assert captions["split"].to_pylist() == ["test", "test", "train", "train", "train"]
    assert captions["image_id"].to_pylist()[1:3] == ["COCO_val2014_000000391895.jpg", "1000092795.jpg"]


def test_a_plain_list_with_plain_sentences_is_read_too(files):
    content = [{"filename": "a.jpg", "split": "val", "sentences": ["Two young guys.", {"raw": "Two men."}]}]
    dataset = read_sample(files, json.dumps(content))
    assert dataset.captions["text"].to_pylist() == ["Two young guys.", "Two men."]
    assert dataset.captions["caption_id"].to_pylist() == ["a.jpg#0", "a.jpg#1"]


def test_the_split_may_stand_in_another_field(files):
    content = {"images": [{**entry, "fold": f"fold{number}"} for number, entry in enumerate(SAMPLE["images"])]}
    assert read_sample(files, content, 0.5, split_field="fold").images["split"].to_pylist() == ["fold0", "fold1"]


def test_relative_paths_lead_to_the_home(home):
    (home / "pictures").mkdir()
    (home / "dataset.json").write_text(json.dumps(SAMPLE))
    config = KarpathySettings(annotations=Path("dataset.json"), images=Path("pictures"))
    assert len(read_dataset(config, max_broken=0.5).images) == 2


def test_files_that_are_not_there_are_named(files):
    nowhere = KarpathySettings(annotations=files / "x.json", images=files / "pictures")
    with pytest.raises(DataError, match=r"x\.json: no such file \(--annotations\)"):
        read_dataset(nowhere)
    nowhere = KarpathySettings(annotations=files / "x.json", images=files / "photos")
    with pytest.raises(DataError, match=r"photos: no such folder; expected the images of x\.json \(--images\)"):
        read_dataset(nowhere)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "dataset.json: not JSON: "),
        ("\x00", "dataset.json: not JSON: "),
        ("[]", "dataset.json: no images in it"),
        ('"images"', "dataset.json: expected Karpathy's JSON, an object with a list under images"),
        ({"images": {}}, "dataset.json: expected Karpathy's JSON, an object with a list under images"),
        ({"images": []}, "dataset.json: no images in it"),
        ({"images": [7]}, "dataset.json: entry 0 has no field filename"),
        (changed(filename=None), "dataset.json: entry 1 has no field filename"),
        (changed(sentences=None), "dataset.json: entry 1 has no field sentences"),
        (changed(sentences="A man."), "dataset.json: entry 1 (1000092795.jpg): expected a list under sentences"),
        (changed(sentences=[{"raw": "A man."}, {}]), "caption 1 is not text but dict in dataset.json, entry 1"),
        (changed(sentences=["A man.", 7]), "caption 1 is not text but int in dataset.json, entry 1 (the image stays)"),
        (changed(sentences=[{"raw": None}]), "caption 0 is not text but dict in dataset.json, entry 1"),
        (changed(sentences=[{"raw": " "}]), 'image "1000092795.jpg": caption 0 is empty in dataset.json, entry 1'),
        (changed(sentences=[{"raw": "A \ud83d man."}]), "caption 0 holds half a character in dataset.json, entry 1"),
        (changed(filename="\0.jpg"), "lies outside of the image folder"),
        (changed(filename="10002456.jpg"), 'image id "10002456.jpg" occurs more than once'),
        (changed(filename="../secret.jpg"), 'image "../secret.jpg" lies outside of the image folder'),
        (changed(filepath=".."), 'image "../1000092795.jpg" lies outside of the image folder'),
        (changed(filepath="/etc"), 'image "/etc/1000092795.jpg" lies outside of the image folder'),
        (changed(filename="/etc/x.jpg"), 'image "/etc/x.jpg" lies outside of the image folder'),
    ],
)
def test_bad_input_is_one_line_with_the_entry(files, content, message):
    assert message in refusal(files, content)


def test_a_split_field_that_is_not_there_is_named(files):
    assert refusal(files, SAMPLE, split_field="fold") == (
        "dataset.json: entry 0 has no field fold (2 more like it; --max-broken 0.01)"
    )


def test_flickr8k_is_read():
    folder = os.environ.get("XMRANK_TEST_DATA")
    annotations = Path(folder or "", "flickr8k", "dataset_flickr8k.json")
    if not folder or not annotations.is_file():
        pytest.skip("needs Flickr8k: set XMRANK_TEST_DATA to a folder that holds flickr8k/dataset_flickr8k.json")
    images = annotations.parent / "images"
    dataset = read_dataset(KarpathySettings(annotations=annotations, images=images, split_field="fold"))
    assert (len(dataset.images), len(dataset.captions)) == (7000, 35000)
    assert Counter(dataset.images["split"].to_pylist()) == {"align": 3000, "train": 3000, "val": 1000}
    assert set(Counter(dataset.captions["image_id"].to_pylist()).values()) == {5}
    present = [location for location in dataset.images["location"].to_pylist() if (dataset.root / location).is_file()]
    assert len(present) == 2000


def test_flickr30k_is_read(files):
    folder = os.environ.get("XMRANK_TEST_DATA")
    annotations = Path(folder or "", "flickr30k", "flickr30k_captions_from_multi30k.json")
    if not folder or not annotations.is_file():
        pytest.skip(f"needs Flickr30k: set XMRANK_TEST_DATA to a folder that holds flickr30k/{annotations.name}")
    dataset = read_dataset(KarpathySettings(annotations=annotations, images=files / "pictures"))
    assert (len(dataset.images), len(dataset.captions)) == (31014, 155070)
    assert Counter(dataset.images["split"].to_pylist()) == {"train": 29000, "val": 1014, "test": 1000}
    assert dataset.captions["text"][0].as_py().startswith("Two young guys with shaggy hair look at their hands")
