"""The reader of WebDataset tars."""

import gzip
import json
import tarfile

import pytest
from readers_samples import add, picture, refusal

from xmrank.datasets.locations import find_changed, read_bytes
from xmrank.datasets.reader_settings import WebDatasetSettings
from xmrank.datasets.readers import read_dataset
from xmrank.runtime.paths import below


def write_tar(path, members):
    """A tar of members in order: (name, bytes or text)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            add(tar, name, content if isinstance(content, bytes) else content.encode())
    return path


def configured(images, **parameters):
    return WebDatasetSettings(images=images, **parameters)


def contents(dataset):
    return [read_bytes(below(dataset.root, location)) for location in dataset.images["location"].to_pylist()]


def test_members_of_one_key_are_a_sample(tmp_path):
    about = {"caption": "Not this one: the text comes first.", "key": "000000001", "url": "x", "label": 4}
    write_tar(tmp_path / "00000.tar", [
        ("000000000.txt", "A dog.\nOne dog.\n"), ("000000000.jpg", picture(1)), ("000000000.cls", "7"),
        ("000000001.json", json.dumps(about)), ("000000001.jpg", picture(2)), ("000000001.txt", "A cat."),
        ("./deep/b.x.y", "ignored"), ("./deep/b.PNG", picture(3)), ("./deep/b.json", '{"captions": ["B.", "C."]}'),
        ("000000002.flac", "no image, no text: no pair"), (".hidden", "x"),
    ])  # fmt: skip
    dataset = read_dataset(configured(tmp_path / "00000.tar"))
    assert dataset.images["image_id"].to_pylist() == ["000000000", "000000001", "deep/b"]
    assert dataset.images["labels"].to_pylist() == [[7], [4], []]
    assert dataset.captions["text"].to_pylist() == ["A dog.", "One dog.", "A cat.", "B.", "C."]
    assert contents(dataset) == [picture(1), picture(2), picture(3)]
    location = dataset.images["location"][0].as_py()  # behind a header, a block of text, and another header
    assert location == f"00000.tar::000000000.jpg@1536+{len(picture(1))}"
    assert dataset.left_out == []


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_folders_in_the_tar_are_no_obstacle(tmp_path, form):
    key = "long" * 60 + "/" + "ü" * 80
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        entry = tarfile.TarInfo("long" * 60)
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
        add(tar, f"{key}.jpg", picture(1))
        add(tar, f"{key}.txt", b"A dog.")
    dataset = read_dataset(configured(tmp_path))
    assert dataset.images["image_id"].to_pylist() == [key] and contents(dataset) == [picture(1)]


def test_tars_are_found_by_folder_and_by_pattern(tmp_path):
    for number in range(12):
        write_tar(tmp_path / f"pairs-{number:03d}.tar", [(f"{number}.jpg", picture(1)), (f"{number}.txt", "A.")])
    whole = read_dataset(configured(tmp_path))
    assert whole.images["image_id"].to_pylist() == [str(number) for number in range(12)]
    some = read_dataset(configured(tmp_path / "pairs-{008..010}.tar"))
    assert some.images["image_id"].to_pylist() == ["8", "9", "10"]
    assert read_dataset(configured(tmp_path / "pairs-01*.tar")).images["image_id"].to_pylist() == ["10", "11"]
    assert refusal(configured(tmp_path / "pairs-{011..013}.tar")).endswith("pairs-012.tar: no such file (--images)")


def test_splits_come_from_json_or_from_the_tars_name(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", [("a.jpg", picture(1)), ("a.txt", "A.")])
    write_tar(tmp_path / "pairs-val-0.tar", [("b.jpg", picture(1)), ("b.txt", "B.")])
    write_tar(tmp_path / "x.tar", [("c.jpg", picture(1)), ("c.json", '{"caption": "C.", "split": "test"}')])
    dataset = read_dataset(configured(tmp_path))
    splits = dict(zip(dataset.images["image_id"].to_pylist(), dataset.images["split"].to_pylist(), strict=True))
    assert splits == {"a": "train", "b": "val", "c": "test"}


def test_keys_that_several_tars_use_get_the_tars_name(tmp_path):
    for part in ("train", "test"):
        write_tar(tmp_path / part / "0.tar", [("s0.jpg", picture(1)), ("s0.txt", "A.")])
    assert read_dataset(configured(tmp_path)).images["image_id"].to_pylist() == ["test/0/s0", "train/0/s0"]


def test_broken_samples_are_left_out_and_listed(tmp_path):
    write_tar(tmp_path / "a.tar", [
        ("0.jpg", picture(1)), ("0.txt", "A."),
        ("1.jpg", b""), ("1.txt", "B."),
        ("2.jpg", picture(1)), ("2.txt", b"\xff\xfe"),
        ("3.jpg", picture(1)), ("3.txt", b"\n"),
        ("4.jpg", picture(1)),
        ("5.txt", "No image."),
        ("6.jpg", picture(1)), ("6.json", '{"caption": '),
        ("7.jpg", picture(1)), ("7.json", '["caption"]'),
        ("8.jpg", picture(1)), ("8.json", '{"captions": ["Sound.", 3, null]}'),
        ("9.jpg", picture(1)), ("9.txt", b"A" * ((1 << 20) + 1)),
    ])  # fmt: skip
    dataset = read_dataset(configured(tmp_path), max_broken=0.9)
    assert dataset.images["image_id"].to_pylist() == ["0", "8"]
    assert dataset.captions["text"].to_pylist() == ["A.", "Sound."]
    assert {entry["image_id"]: (entry["reason"], entry["captions"]) for entry in dataset.left_out} == {
        "1": ("its image is empty", 1),
        "2": ("its txt is not UTF-8", 1),
        "3": ("has no caption", 0),
        "4": ("has no caption", 0),
        "5": ("has no image", 1),
        "6": ("its json is not JSON", 1),
        "7": ("its json is not an object", 1),
        "8": ("caption 1 is not text but int (the image stays)", 1),
        "9": ("its txt is too long", 1),
    }
    message = refusal(configured(tmp_path))
    assert message.startswith(f'{tmp_path.name}: image "1": its image is empty (8 more like it; --max-broken 0.01)')


def link(name, target):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def test_links_lead_nowhere(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(link("0.jpg", "/etc/passwd"))
        add(tar, "0.txt", b"A.")
        add(tar, "1.jpg", picture(1))
        add(tar, "1.txt", b"B.")
    dataset = read_dataset(configured(tmp_path), max_broken=0.5)
    assert dataset.left_out == [{"image_id": "0", "reason": "has no image", "captions": 1}]


@pytest.mark.parametrize("name", ["../0.jpg", "/etc/0.jpg", "a/../../0.txt", "a/..//0.x"])
def test_members_that_climb_out_are_refused(tmp_path, name):
    write_tar(tmp_path / "a.tar", [("1.jpg", picture(1)), ("1.txt", "A."), (name, b"x")])
    assert refusal(configured(tmp_path)) == f'a.tar: its member "{name}" leads out of the archive'


def whole_tar(tmp_path):
    return write_tar(
        tmp_path / "a.tar", [("1.jpg", picture(1)), ("1.txt", "A."), ("2.jpg", bytes(3000)), ("2.txt", "B")]
    )


def test_a_tar_cut_short_is_refused(tmp_path):
    path = whole_tar(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: 4 * 512 + 700])  # in the bytes of the third member
    assert "a.tar: " in refusal(configured(tmp_path))
    path.write_bytes(content[: 4 * 512 + 100])  # in its header
    assert "a.tar: " in refusal(configured(tmp_path))
    only = write_tar(tmp_path / "a.tar", [("1.jpg", bytes(3000))])
    only.write_bytes(only.read_bytes()[:2000])
    assert "a.tar: " in refusal(configured(tmp_path))


def test_a_broken_header_is_not_taken_for_the_end(tmp_path):
    path = whole_tar(tmp_path)
    content = bytearray(path.read_bytes())
    content[4 * 512 + 150] ^= 0xFF  # in the checksum of the third member
    path.write_bytes(content)
    assert refusal(configured(tmp_path)) == "a.tar: broken at byte 2048: expected the header of a member"


@pytest.mark.parametrize("content", [b"<html>404</html>" * 100, gzip.compress(bytes(2048))], ids=["page", "gzip"])
def test_what_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    assert refusal(configured(tmp_path)).startswith("a.tar: not readable as an uncompressed tar: ")


def test_an_empty_tar_holds_no_samples(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    assert "no samples in its tars; expected members like 0001.jpg and 0001.txt" in refusal(configured(tmp_path))


def test_a_folder_without_tars_and_another_file_are_refused(tmp_path):
    assert refusal(configured(tmp_path)) == f"{tmp_path}: no .tar files in it (--images)"
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    assert refusal(configured(tmp_path / "a.tar.gz")).startswith("a.tar.gz: expected a folder, or .tar files that are")


def test_a_member_is_read_without_the_rest_of_the_tar(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", [("0.jpg", bytes(9000)), ("1.jpg", b"1" * 9000), ("2.jpg", bytes(9000))])
    start = 512 + 9216 + 512  # a header, 9,000 bytes in blocks of 512, a header
    location = below(tmp_path, f"a.tar::1.jpg@{start}+9000")

    def no_scan(*arguments, **parameters):
        raise AssertionError("the tar was opened as a tar")

    monkeypatch.setattr(tarfile, "open", no_scan)
    assert read_bytes(location) == b"1" * 9000


def test_a_member_of_a_tar_that_shrank_has_changed(tmp_path):
    path = whole_tar(tmp_path)
    dataset = read_dataset(configured(tmp_path))
    addresses = [below(dataset.root, location) for location in dataset.images["location"].to_pylist()]
    sizes = [len(picture(1)), 3000]
    assert find_changed(addresses, sizes) == [] and find_changed(addresses, [1, 3000]) == [0]
    path.write_bytes(path.read_bytes()[: 4 * 512 + 1000])
    assert find_changed(addresses, sizes) == [1]
    path.unlink()
    assert find_changed(addresses, sizes) == [0, 1]


def test_another_place_in_the_tar_is_another_data_set(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.jpg", picture(1)), ("1.txt", "A.")])
    first = read_dataset(configured(tmp_path)).fingerprint
    write_tar(tmp_path / "a.tar", [("0.x", b"x"), ("1.jpg", picture(1)), ("1.txt", "A.")])
    assert read_dataset(configured(tmp_path)).fingerprint != first
