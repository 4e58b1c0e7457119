"""What is published of a stage: nothing that names the machine, its user, or a credential."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xmrank.hub.publishing import clean_manifest, find_private, hide_paths, refuse_private
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import Manifest


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ada/data/a.jpg: truncated", "…/a.jpg: truncated"),
        ("cannot read '/tmp/x y'", "cannot read '…/x y'"),
        ("~/x/y.jpg", "…/y.jpg"),
        ("file:///home/ada/x.jpg", "…/x.jpg"),
        ("s3://company-bucket/secret/a.jpg", "…/a.jpg"),
        ("C:\\Users\\ada\\x.png", "…/x.png"),
        ("https://user:secret@host.org/b/c.jpg", "https://host.org/b/c.jpg"),
    ],
)
def test_of_a_private_path_the_last_part_stays(text, shown):
    assert hide_paths({text: [text]}) == {shown: [shown]}
    assert find_private(text) is not None
    assert find_private(shown) is None


@pytest.mark.parametrize(
    "text", ["https://a.org/b/c.jpg", "hf://me/x/y", "train/a.jpg", "and/or", "1/2", "hf-hub:us/mine"]
)
def test_what_is_no_private_path_stays(text):
    assert hide_paths(text) == text
    assert find_private(json.dumps({"text": f"{text} “quoted” \u2026"})) is None


def test_a_published_manifest_has_the_same_fingerprint():
    left_out = [{"image_id": "7", "reason": "/home/ada/7.jpg: truncated"}]
    settings = {"images_root": "/home/ada", "dataset": "scenes", "threads": 1}
    manifest = Manifest("embed", {"model": "m"}, {}, {}, {}, left_out, settings).with_fingerprint()
    cleaned = clean_manifest(manifest)
    assert cleaned.settings == {"images_root": None, "dataset": "scenes", "threads": 1}
    assert cleaned.left_out == [{"image_id": "7", "reason": "…/7.jpg: truncated"}]
    assert cleaned.fingerprint == manifest.fingerprint == cleaned.with_fingerprint().fingerprint


def finished(directory, config=None, *, text=None, location=None):
    """A finished stage with one file."""
    stage = StageDirectory.open(directory, "embed", config=config or {}, inputs={})
    if text is not None:
        (stage.directory / "encoder.json").write_text(text)
    if location is not None:
        pq.write_table(pa.table({"location": ["a.jpg", location, None]}), stage.directory / "image.parquet")
    return clean_manifest(stage.finish(counts={}))


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"text": '{"name": "/home/ada/model"}'}, "encoder.json: not pushed: it names /home/ada/…"),
        ({"text": '{"url": "https://host/x?token=abc"}'}, "encoder.json: not pushed: it names a credential"),
        ({"location": "/home/ada/a.jpg"}, "image.parquet: not pushed: it names /home/ada/a.jpg"),
        ({"location": "s3://bucket/a.jpg"}, "image.parquet: not pushed: it names s3://bucket/a.jpg"),
        ({"config": {"model": "/home/ada/model"}}, "its manifest names /home/ada/…, which its fingerprint covers"),
    ],
)
def test_what_hashes_cover_is_refused_and_named(tmp_path, parts, named):
    manifest = finished(tmp_path / "stage", **parts)
    with pytest.raises(DataError) as caught:
        refuse_private(tmp_path / "stage", manifest)
    assert named in str(caught.value)


def test_pictures_on_the_web_are_no_secret(tmp_path):
    refuse_private(tmp_path / "stage", finished(tmp_path / "stage", location="https://host/a.jpg", text='{"a": "b/c"}'))
