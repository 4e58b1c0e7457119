"""The reader of COCO's captions."""

import copy
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from readers_samples import refusal

from xmrank.datasets.reader_settings import CocoSettings
from xmrank.datasets.readers import read_dataset
from xmrank.runtime.errors import DataError

SAMPLE = {
    "info": {"description": "COCO 2017 Dataset", "version": "1.0"},
    "licenses": [{"id": 1, "name": "Attribution License"}],
    "images": [
        {"license": 4, "file_name": "000000397133.jpg", "height": 427, "width": 640, "id": 397133},
        {"license": 1, "file_name": "000000037777.jpg", "height": 230, "width": 352, "id": 37777},
    ],
    "annotations": [
        {"image_id": 37777, "id": 38, "caption": "A kitchen with a bowl of fruit.\n"},
        {"image_id": 397133, "id": 182, "caption": "A man is in a kitchen making pizzas."},
        {"image_id": 37777, "id": 479, "caption": "The small kitchen has various appliances."},
    ],
}


def configured(folder, content=SAMPLE, name="captions_val2017.json", **parameters):
    """The configuration of a file, with a folder for its images."""
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return CocoSettings(annotations=folder / name, images=folder / "pictures", **parameters)


def changed(where, number, **values):
    """The sample, one entry with other values (None: without the field)."""
    content = copy.deepcopy(SAMPLE)
    content[where][number] = {k: v for k, v in {**content[where][number], **values}.items() if v is not None}
    return content


def test_a_sample_becomes_two_tables(tmp_path):
    dataset = read_dataset(configured(tmp_path))
    assert dataset.images.to_pylist() == [
        {"image_id": "397133", "location": "000000397133.jpg", "split": "val", "labels": []},
        {"image_id": "37777", "location": "000000037777.jpg", "split": "val", "labels": []},
    ]
    assert dataset.captions.select(["caption_id", "image_id", "text"]).to_pylist() == [
        {"caption_id": "182", "image_id": "397133", "text": "A man is in a kitchen making pizzas."},
        {"caption_id": "38", "image_id": "37777", "text": "A kitchen with a bowl of fruit."},
        {"caption_id": "479", "image_id": "37777", "text": "The small kitchen has various appliances."},
    ]


def test_the_folder_that_the_file_is_named_after_holds_the_images(tmp_path):
    config = configured(tmp_path)
    (tmp_path / "pictures" / "val2017").mkdir()
    assert read_dataset(config).images["location"][0].as_py() == "val2017/000000397133.jpg"


def test_several_files_are_several_splits(tmp_path):
    other = changed("images", 0, id=1)["images"][:1], [{"id": 1, "image_id": 1, "caption": "A pizza."}]
    configured(tmp_path, {"images": other[0], "annotations": other[1]}, "captions_train2017.json")
    config = configured(tmp_path)
    dataset = read_dataset(CocoSettings(annotations=tmp_path / "captions_*2017.json", images=config.images))
    assert dataset.images["split"].to_pylist() == ["train", "val", "val"]


def test_a_field_of_the_images_may_name_the_split(tmp_path):
    content = {**SAMPLE, "images": [{**image, "part": "test"} for image in SAMPLE["images"]]}
    assert read_dataset(configured(tmp_path, content, split_field="part")).images["split"].to_pylist() == [
        "test",
        "test",
    ]
    assert refusal(configured(tmp_path, split_field="part")).startswith(
        "captions_val2017.json: image 0 has no field part ("
    )


def test_an_image_without_captions_is_left_out_and_listed(tmp_path):
    content = {**SAMPLE, "annotations": SAMPLE["annotations"][1:2]}
    dataset = read_dataset(configured(tmp_path, content), max_broken=0.5)
    assert dataset.images["image_id"].to_pylist() == ["397133"]
    assert dataset.left_out == [{"image_id": "37777", "reason": "has no caption", "captions": 0}]
    assert refusal(configured(tmp_path, content)) == (
        'captions_val2017.json: image "37777": has no caption (--max-broken 0.01)'
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "captions_val2017.json: not JSON: "),
        ("[]", "expected COCO's captions, an object with lists under images and annotations"),
        ({"images": [], "annotations": {}}, "an object with lists under images and annotations"),
        ({"images": [], "annotations": []}, "captions_val2017.json: no images in it"),
        ({"images": [3], "annotations": []}, "captions_val2017.json: image 0 has no field id"),
        (changed("images", 1, file_name=None), "captions_val2017.json: image 1 has no field file_name"),
        (changed("images", 1, file_name="../x.jpg"), 'image "../x.jpg" lies outside of the image folder'),
        (changed("images", 1, id=397133), 'image id "397133" occurs more than once'),
        (changed("annotations", 2, caption=None), "captions_val2017.json: annotation 2 has no field caption"),
        (
            changed("annotations", 2, caption=" "),
            "caption 1 is empty in captions_val2017.json, annotation 2 (the image stays)",
        ),
        (
            changed("annotations", 2, caption=[1]),
            "caption 1 is not text but list in captions_val2017.json, annotation 2",
        ),
        (
            changed("annotations", 2, caption="\ud83d"),
            "caption 1 holds half a character in captions_val2017.json, annotation 2",
        ),
        (changed("annotations", 2, image_id=9), 'annotation 2 belongs to image "9", which is not among the images'),
        (changed("annotations", 2, id=38), 'caption id "38" occurs more than once'),
    ],
)
def test_bad_input_is_one_line_with_the_entry(tmp_path, content, message):
    assert message in refusal(configured(tmp_path, content))


def test_no_file_of_a_pattern_is_refused(tmp_path):
    config = configured(tmp_path)
    with pytest.raises(DataError, match=r"captions_x\*\.json: no such files \(--annotations\)"):
        read_dataset(CocoSettings(annotations=tmp_path / "captions_x*.json", images=config.images))


def test_coco_is_read(tmp_path):
    folder = os.environ.get("XMRANK_TEST_DATA")
    annotations = Path(folder or "", "coco", "captions_val2017.json")
    if not folder or not annotations.is_file():
        pytest.skip("needs COCO: set XMRANK_TEST_DATA to a folder that holds coco/captions_val2017.json")
    dataset = read_dataset(CocoSettings(annotations=annotations, images=tmp_path))
    assert (len(dataset.images), len(dataset.captions), dataset.left_out) == (5000, 25014, [])
    assert Counter(dataset.images["split"].to_pylist()) == {"val": 5000}
    assert dataset.images["location"][0].as_py() == "000000397133.jpg"
    first = dataset.captions.filter(dataset.captions["caption_id"].to_pandas().eq("38").to_numpy())
    assert first["text"].to_pylist() == ["A black Honda motorcycle parked in front of a garage."]
