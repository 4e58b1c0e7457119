"""Manifests: what they say is checked, and what they name outside their directory is never touched."""

import json

import pytest

from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_text
from xmrank.runtime.manifest import Manifest, read_manifest


def open_stage(folder):
    return StageDirectory.open(folder, "mine", config={"seed": 0}, inputs={"embeddings": "e0"})


@pytest.fixture
def folder(tmp_path):
    """The directory of a finished stage, beside a file of the user's."""
    (tmp_path / "thesis.tex").write_text("years of work")
    stage = open_stage(tmp_path / "lists")
    write_text(stage.directory / "a.txt", "hello")
    stage.finish(counts={"files": 1})
    return stage.directory


def name_output(folder, name):
    """Make the manifest name an output more, of another size than whatever has that name."""
    manifest = read_manifest(folder, "mine")
    outputs = {**manifest.outputs, name: {"bytes": 1, "sha256": "0" * 64}}
    changed = Manifest(**{**vars(manifest), "outputs": outputs}).with_fingerprint()
    (folder / "manifest.json").write_text(json.dumps(vars(changed)))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../thesis.tex", "is outside the directory"),
        ("sub/../../thesis.tex", "is outside the directory"),
        ("/ABSOLUTE/thesis.tex", "is outside the directory"),
        ("link/thesis.tex", "is outside the directory, through a symbolic link"),
        ("file", "is outside the directory, through a symbolic link"),
        ("loop", "is not the name of a file"),
        ("a\0b", "is not the name of a file"),
        (".", "is not the name of a file"),
        ("", "is not the name of a file"),
        ("\ud800", "is not the name of a file"),
        ("plan.json", "is no output"),
        ("work/part", "is no output"),
    ],
)
def test_a_manifest_cannot_name_what_is_not_an_output(folder, name, reason):
    (folder / "link").symlink_to(folder.parent)
    (folder / "file").symlink_to(folder.parent / "thesis.tex")
    (folder / "loop").symlink_to("loop")
    name_output(folder, name.replace("/ABSOLUTE", str(folder.parent)))
    before = contents(folder.parent)
    for read in (lambda: open_stage(folder), lambda: read_manifest(folder, "mine")):
        with pytest.raises(DataError, match=f"manifest.json: refused: names the output .*, which {reason}$") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert contents(folder.parent) == before


def test_a_directory_that_is_a_link_itself_is_read(folder):
    (folder.parent / "elsewhere").symlink_to(folder)
    assert read_manifest(folder.parent / "elsewhere", "mine").counts == {"files": 1}


@pytest.mark.parametrize(
    "text",
    [
        '{"schema": 2,',
        "[]",
        "null",
        "[" * 100_000,
        '{"schema": 2}',
        *(
            json.dumps({**vars(Manifest("mine", {}, {}, {})), **change})
            for change in (
                {"outputs": ["a.txt"]},
                {"outputs": {"a.txt": 5}},
                {"outputs": {"a.txt": {"bytes": "5", "sha256": "0"}}},
                {"outputs": {"a.txt": {"bytes": 5}}},
                {"config": None},
                {"more": 1},
            )
        ),
    ],
)
def test_what_is_no_manifest_is_one_line(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="not the manifest of a stage"):
        read_manifest(folder, "mine")


@pytest.mark.parametrize(
    ("old", "new"), [('"seed": 0', '"seed": 1'), ('"e0"', '"e1"'), ('"sha256": "2', '"sha256": "3')]
)
def test_a_changed_manifest_is_damaged(folder, old, new):
    text = (folder / "manifest.json").read_text()
    assert old in text
    (folder / "manifest.json").write_text(text.replace(old, new))
    with pytest.raises(DataError, match="damaged: its fingerprint is not that of its contents"):
        read_manifest(folder, "mine")


def test_reading_a_manifest_says_what_is_wrong(folder):
    with pytest.raises(DataError, match=r"no finished output of the stage mine here \(no manifest.json\)"):
        read_manifest(folder.parent, "mine")
    with pytest.raises(DataError, match="holds the output of the stage mine, expected train"):
        read_manifest(folder, "train")
    later = {**vars(read_manifest(folder, "mine")), "schema": 3, "xmrank": "9.0", "field_of_the_future": 1}
    (folder / "manifest.json").write_text(json.dumps(later))
    with pytest.raises(DataError, match=r"schema 3, expected 2: made by xmrank 9\.0"):
        read_manifest(folder, "mine")
