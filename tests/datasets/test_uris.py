"""Files at local paths and at URIs."""

from pathlib import Path

import fsspec
import pytest

from xmrank.datasets import uris
from xmrank.datasets.locations import read_bytes
from xmrank.datasets.uris import expand_braces, expand_pattern, file_sizes, is_folder, list_files, open_file, read_file
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below, resolve_uri

MEMORY = "memory://pictures"


@pytest.fixture(params=["local", "file", "memory"])
def root(request, tmp_path):
    """A folder with a file, one in a folder whose name has to be left as it is, and hidden ones."""
    files = {"a.bin": b"abc", "b c/%20ü#?.bin": b"", ".hidden/c.bin": b"x", "b c/.d": b"x"}
    if request.param == "memory":
        memory = fsspec.filesystem("memory")
        for name, content in files.items():
            memory.pipe_file(f"/pictures/{name}", content)
        yield MEMORY
        memory.rm("/pictures", recursive=True)
        return
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    yield tmp_path if request.param == "local" else f"file://{tmp_path}"


def test_files_are_listed_without_hidden_ones(root):
    assert list_files(root) == ["a.bin", "b c/%20ü#?.bin"]
    with pytest.raises(DataError, match=r"nowhere: no such folder \(--images\)$"):
        list_files(resolve_uri(below(root, "nowhere")))


def test_sizes_are_known_and_none_is_no_file(root, monkeypatch):
    addresses = [below(root, name) for name in ("a.bin", "b c/%20ü#?.bin", "b c", "none/none", "none")]
    assert file_sizes(addresses) == [3, 0, None, None, None]
    monkeypatch.setattr(uris, "LIST_FROM", 1)  # from listings of the folders
    assert file_sizes(addresses) == [3, 0, None, None, None]
    assert file_sizes([]) == []


def test_files_are_read(root):
    assert read_file(below(root, "a.bin"), "--flag") == b"abc"
    assert read_bytes(below(root, "a.bin")) == b"abc"
    assert read_bytes(below(root, "b c/%20ü#?.bin")) == b""
    with open_file(below(root, "a.bin")) as file:
        file.seek(1)
        assert file.read(1) == b"b"


def test_what_is_not_there_is_no_image_and_no_file(root):
    for name in ("none", "none/none", "a.tar::1.jpg@0+3", "a.parquet::image/0"):
        assert read_bytes(below(root, name)) == b""
    with pytest.raises(DataError, match=r"none: no such file \(--flag\)$"):
        read_file(below(root, "none"), "--flag")
    assert is_folder(root) and not is_folder(below(root, "a.bin")) and not is_folder(below(root, "none"))


def test_a_uri_of_no_known_kind_is_one_line():
    with pytest.raises(DataError, match=r"^nonsense://a/b: cannot be read: ") as caught:
        read_file("nonsense://a/b", "--flag")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["ftp://user:x@h/c.csv", "github://h/x"])
def test_a_file_system_that_needs_more_than_a_uri_is_one_line(uri):
    with pytest.raises(
        DataError, match=r"cannot be read: (ftp|github) needs more than a URI: (host|org, repo)$"
    ) as caught:
        read_file(uri, "--annotations")
    assert "x@" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("s3://bucket/a b", "s3://bucket/a b"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        (Path("file:///data/a"), "file:///data/a"),
        (Path("memory://a"), "memory://a"),
        ("/data/a", Path("/data/a")),
    ],
)
def test_slashes_that_a_path_folds_come_back(given, meant):
    assert resolve_uri(given) == meant


def test_a_bucket_of_a_store_is_part_of_the_path(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")  # else pyarrow would connect to Amazon
    system, path = uris.locate_file("s3://bucket/folder/a b%20c.jpg")
    assert (system.type_name, path) == ("s3", "bucket/folder/a b%20c.jpg")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{008..010}.tar", ["a-008.tar", "a-009.tar", "a-010.tar"]),
        ("{train,val}-{0..1}.tar", ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]),
        ("a-{3..1}.tar", []),
        ("a-{b}.tar", ["a-{b}.tar"]),
    ],
)
def test_braces_stand_for_numbers_and_choices(pattern, names):
    assert list(expand_braces(pattern)) == names


def test_patterns_give_a_folder_and_the_names_in_it(root):
    assert expand_pattern(below(root, "*.bin"), "--flag") == (root, ["a.bin"])
    assert expand_pattern(below(root, "{a,z}.bin"), "--flag") == (root, ["a.bin", "z.bin"])
    with pytest.raises(DataError, match=r"x\*\.bin: no such files \(--flag\)$"):
        expand_pattern(below(root, "x*.bin"), "--flag")
