"""What holds for every reader: the same three images and six captions in each format become the same tables."""

from dataclasses import replace
from pathlib import Path

import pytest
from readers_samples import ITEMS, SAMPLES, TEXTS, refusal

from xmrank.datasets.locations import find_absent, find_changed, read_bytes
from xmrank.datasets.readers import READERS, read_dataset
from xmrank.runtime.paths import below


@pytest.fixture(params=SAMPLES)
def sample(request, tmp_path):
    return SAMPLES[request.param](tmp_path)


def as_uri(path):
    return Path(f"file://{path}")  # Path() folds the slashes, as it does on the command line


def test_every_reader_has_a_sample():
    assert {*SAMPLES, "scenes"} == set(READERS)


def test_images_captions_and_splits_are_those_of_the_sample(sample):
    dataset = read_dataset(sample)
    assert dataset.name == sample.name
    assert dataset.images["split"].to_pylist() == ["train", "train", "val"]
    assert dataset.captions["text"].to_pylist() == TEXTS
    assert dataset.captions["split"].to_pylist() == ["train"] * 4 + ["val"] * 2
    ids = dataset.images["image_id"].to_pylist()
    assert dataset.captions["image_id"].to_pylist() == [i for i in ids for _ in range(2)]
    assert dataset.images["labels"].to_pylist() == [[], [], []]
    assert dataset.left_out == []


def test_locations_lead_to_the_images_bytes(sample):
    dataset = read_dataset(sample)
    addresses = [below(dataset.root, location) for location in dataset.images["location"].to_pylist()]
    contents = [content for _, _, content, _ in ITEMS]
    assert [read_bytes(address) for address in addresses] == contents
    assert find_absent(addresses) == [] and find_changed(addresses, list(map(len, contents))) == []


def test_a_uri_gives_the_same_tables_and_bytes(sample):
    local = read_dataset(sample)
    paths = {name: as_uri(getattr(sample, name)) for name in ("annotations", "images") if hasattr(sample, name)}
    remote = read_dataset(replace(sample, **paths))
    assert remote.root == f"file://{local.root}"
    assert remote.fingerprint == local.fingerprint
    addresses = [below(remote.root, location) for location in remote.images["location"].to_pylist()]
    assert [read_bytes(address) for address in addresses] == [content for _, _, content, _ in ITEMS]
    assert find_absent(addresses) == [] and find_changed(addresses, [len(content) for _, _, content, _ in ITEMS]) == []


def test_images_that_are_nowhere_are_refused_by_name(sample, tmp_path):
    for path in (tmp_path / "nowhere", as_uri(tmp_path / "nowhere")):
        message = refusal(replace(sample, images=path))
        assert "nowhere: " in message and message.endswith("(--images)")


def test_annotations_that_are_nowhere_are_refused_by_name(sample, tmp_path):
    for path in (tmp_path / "none.json", as_uri(tmp_path / "none.json")) if hasattr(sample, "annotations") else ():
        assert refusal(replace(sample, annotations=path)).endswith("none.json: no such file (--annotations)")
