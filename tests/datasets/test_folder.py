"""The reader of a folder of images and texts."""

import pytest
from readers_samples import picture, refusal

from xmrank.datasets.reader_settings import FolderSettings
from xmrank.datasets.readers import read_dataset


def write(folder, files):
    """Files by name: bytes, or texts."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_texts_belong_to_the_images_of_their_name(tmp_path):
    write(tmp_path, {
        "train/dogs/a.JPG": picture(1), "train/dogs/a.txt": "A dog.\r\n\r\nOne dog.\r\n",
        "validation/b.b.png": picture(2), "validation/b.b.txt": "\ufeffA cat.",
        ".cache/c.png": picture(3), ".cache/c.txt": "Hidden.", "readme.txt": "No image of this name.",
    })  # fmt: skip
    dataset = read_dataset(FolderSettings(images=tmp_path))
    assert dataset.images.to_pylist() == [
        {"image_id": "train/dogs/a.JPG", "location": "train/dogs/a.JPG", "split": "train", "labels": []},
        {"image_id": "validation/b.b.png", "location": "validation/b.b.png", "split": "val", "labels": []},
    ]
    assert dataset.captions["text"].to_pylist() == ["A dog.", "One dog.", "A cat."]


def test_images_without_a_sound_text_are_left_out_and_listed(tmp_path):
    texts = {"a": b"A dog.", "b": b"\xff\xfe", "c": b" \n", "e": b"A" * (1 << 21)}
    write(tmp_path, {f"{name}.txt": text for name, text in texts.items()})
    write(tmp_path, {f"{name}.png": picture(1) for name in "abcde"})
    dataset = read_dataset(FolderSettings(images=tmp_path), max_broken=0.8)
    assert dataset.captions["text"].to_pylist() == ["A dog."]
    assert [(entry["image_id"], entry["reason"]) for entry in dataset.left_out] == [
        ("b.png", "its text b.txt is not UTF-8"),
        ("c.png", "its text c.txt is empty"),
        ("d.png", "its text d.txt does not exist"),
        ("e.png", "its text e.txt is too long"),
    ]
    assert refusal(FolderSettings(images=tmp_path)) == (
        f'{tmp_path.name}: image "b.png": its text b.txt is not UTF-8 (3 more like it; --max-broken 0.01)'
    )


def test_a_folder_without_images_is_refused(tmp_path):
    write(tmp_path, {"a.txt": "A dog."})
    assert refusal(FolderSettings(images=tmp_path)) == (
        f"{tmp_path}: no images in it; expected files like dog.jpg and dog.txt (--images)"
    )


def test_an_image_of_no_split_among_others_is_named(tmp_path):
    write(tmp_path, {f"{name}{kind}": b"x" for name in ("train/a", "b") for kind in (".png", ".txt")})
    message = refusal(FolderSettings(images=tmp_path))
    assert message == f'{tmp_path.name}: image "b.png" has no split, others have one, like "train"'


def test_linked_folders_are_entered_once(tmp_path):
    write(tmp_path, {"there/a.png": picture(1), "there/a.txt": "A dog."})
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "train").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "loop").symlink_to(tmp_path / "there")
    dataset = read_dataset(FolderSettings(images=tmp_path / "here"))
    assert dataset.images["location"].to_pylist() == ["train/a.png"]


def test_a_name_that_is_no_text_is_refused(tmp_path):
    try:
        (tmp_path / "\udcff.png").write_bytes(b"x")
    except (OSError, UnicodeError):
        pytest.skip("needs a file system that takes names which are not UTF-8")
    assert "is not UTF-8" in refusal(FolderSettings(images=tmp_path))
