"""The reader of Hugging Face's formats."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers_samples import picture, refusal

from xmrank.datasets import hub
from xmrank.datasets.locations import find_absent, find_changed, read_bytes
from xmrank.datasets.reader_settings import ColumnsConfig, HuggingFaceSettings
from xmrank.datasets.readers import read_dataset
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.paths import below


def stored(*greys):
    """A column of images as the library datasets writes it."""
    values = [None if grey is None else {"bytes": picture(grey), "path": f"{grey}.png"} for grey in greys]
    return pa.array(values, pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)


def configured(images, **parameters):
    return HuggingFaceSettings(images=images, **parameters)


def contents(dataset):
    return [read_bytes(below(dataset.root, location)) for location in dataset.images["location"].to_pylist()]


def test_rows_of_parquet_are_images_with_their_captions(tmp_path):
    captions = {f"caption_{i}": [f"{word} {i}." for word in "ABC"] for i in range(5)}
    captions["caption_5"] = [None, None, "C 5."]  # not every image has as many
    write(tmp_path / "data" / "train-00000-of-00002.parquet", image=stored(1, 2, 3), label=[4, 5, 6], **captions)
    captions = {f"caption_{i}": [f"D {i}."] for i in range(5)}
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", image=stored(4), label=[7], **captions)
    dataset = read_dataset(configured(tmp_path))
    assert dataset.images.to_pylist()[2:] == [
        {
            "image_id": "data/train-00000-of-00002/2",
            "location": "data/train-00000-of-00002.parquet::image/2",
            "split": "train",
            "labels": [6],
        },
        {
            "image_id": "data/validation-00000-of-00001/0",
            "location": "data/validation-00000-of-00001.parquet::image/0",
            "split": "val",
            "labels": [7],
        },
    ]
    assert dataset.captions["text"].to_pylist() == [
        *(f"{word} {i}." for word in "ABC" for i in range(5)), "C 5.", *(f"D {i}." for i in range(5))
    ]  # fmt: skip
    assert contents(dataset) == [picture(grey) for grey in (1, 2, 3, 4)]
    backwards = dataset.images["location"].to_pylist()[::-1]
    assert [read_bytes(below(tmp_path, location)) for location in backwards] == [picture(g) for g in (4, 3, 2, 1)]


def test_columns_of_other_kinds_are_understood(tmp_path):
    sentences = [[{"raw": "A."}, {"raw": "B."}], [{"raw": "C."}]]
    binary = pa.array([picture(1), picture(2)], pa.large_binary())
    write(tmp_path / "a.parquet", jpg=binary, sentences=sentences, image_id=[7, 8], split=["test", "train"])
    dataset = read_dataset(configured(tmp_path))
    assert dataset.images["image_id"].to_pylist() == ["7", "8"]
    assert dataset.images["split"].to_pylist() == ["test", "train"]
    assert dataset.captions["text"].to_pylist() == ["A.", "B.", "C."]
    assert contents(dataset) == [picture(1), picture(2)]


def test_an_image_column_is_found_by_its_type_or_named(tmp_path):
    write(tmp_path / "a.parquet", photo=stored(1), words=["A."], text=["B."])
    assert read_dataset(configured(tmp_path)).captions["text"].to_pylist() == ["B."]
    columns = ColumnsConfig(image="photo", caption=("words",))
    assert read_dataset(configured(tmp_path, columns=columns)).captions["text"].to_pylist() == ["A."]
    message = refusal(configured(tmp_path, columns=ColumnsConfig(image="picture")), ConfigError)
    assert message == "--columns.image picture: no such column in a.parquet; its columns: photo, words, text"


def test_rows_with_one_id_are_captions_of_one_image(tmp_path):
    write(tmp_path / "a.parquet", image=stored(1, 1, 2), image_id=[7, 7, 8], text=["A.", "B.", "C."])
    dataset = read_dataset(configured(tmp_path))
    assert dataset.captions["caption_id"].to_pylist() == ["7#0", "7#1", "8#0"]
    assert contents(dataset) == [picture(1), picture(2)]


def test_images_may_be_paths(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    write(tmp_path / "a.parquet", image=["a.png"], text=["A."])
    assert contents(read_dataset(configured(tmp_path))) == [picture(1)]
    write(tmp_path / "a.parquet", image=["../a.png"], text=["A."])
    assert refusal(configured(tmp_path)).endswith('image "../a.png" lies outside of the image folder')


def test_broken_captions_are_listed_and_images_that_are_null_are_none(tmp_path):
    write(tmp_path / "a.parquet", image=stored(1, None, 3), text=["A.", "B.", None])
    dataset = read_dataset(configured(tmp_path), max_broken=0.5)
    assert dataset.left_out == [{"image_id": "a/2", "reason": "has no caption", "captions": 0}]
    assert contents(dataset) == [picture(1), b""]  # the second turns out broken when it is read
    assert read_bytes(below(tmp_path, "a.parquet::image/3")) == b""


def test_a_parquet_file_of_another_size_is_another_data_set(tmp_path):
    write(tmp_path / "a.parquet", image=stored(1), text=["A."])
    dataset = read_dataset(configured(tmp_path))
    addresses = [below(dataset.root, location) for location in dataset.images["location"].to_pylist()]
    assert find_absent(addresses) == [] and find_changed(addresses, [7]) == []
    write(tmp_path / "a.parquet", image=stored(1), text=["A."], more=["other bytes"])
    assert read_dataset(configured(tmp_path)).fingerprint != dataset.fingerprint
    (tmp_path / "a.parquet").unlink()
    assert find_absent(addresses) == [0] and find_changed(addresses, [7]) == [0]
    assert read_bytes(addresses[0]) == b""


def test_a_rewritten_parquet_file_is_read_anew(tmp_path):
    write(tmp_path / "a.parquet", image=stored(1), text=["A."])
    assert read_bytes(below(tmp_path, "a.parquet::image/0")) == picture(1)
    write(tmp_path / "a.parquet", image=stored(2), text=["A."], more=["x"])
    assert read_bytes(below(tmp_path, "a.parquet::image/0")) == picture(2)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["A."]}, "a.parquet: no column for the images; expected one named image, path, image_path or the "),
        ({"image": stored(1)}, "a.parquet: no column for the captions; expected one named caption, captions, text or "),
        ({"image": [7], "text": ["A."]}, "the column image holds int64, expected images as bytes, or paths"),
        ({"image": ["a.png", ""], "text": ["A.", "B."]}, "a.parquet: row 1: nothing under image"),
        ({"image": stored(1, 2), "text": ["A.", "B."], "split": ["val", None]}, '"a/1" has no split, others have one'),
    ],
)
def test_bad_input_is_one_line(tmp_path, columns, message):
    write(tmp_path / "a.parquet", **columns)
    assert message in refusal(configured(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"<html>"])
def test_what_is_no_parquet_is_refused(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    assert refusal(configured(tmp_path)).startswith("a.parquet: ")


def image_folder(folder, **files):
    for name in ("train/a.png", "train/b.png", "test/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(1))
    for name, content in files.items():
        (folder / name.replace("_", "/", 1).replace("_", ".")).write_text(content)


def test_image_folders_have_metadata_in_csv_or_jsonl(tmp_path):
    jsonl = [{"file_name": "c.png", "captions": ["C.", "D."], "label": "dog"}]
    image_folder(
        tmp_path,
        train_metadata_csv="file_name,text,label\na.png,A.,cat\nb.png,B.,dog\n",
        test_metadata_jsonl="\n".join(map(json.dumps, jsonl)) + "\n",
    )
    dataset = read_dataset(configured(tmp_path))
    assert dataset.images.to_pylist() == [
        {"image_id": "test/c.png", "location": "test/c.png", "split": "test", "labels": [1]},
        {"image_id": "train/a.png", "location": "train/a.png", "split": "train", "labels": [0]},
        {"image_id": "train/b.png", "location": "train/b.png", "split": "train", "labels": [1]},
    ]
    assert dataset.captions["text"].to_pylist() == ["C.", "D.", "A.", "B."]
    assert contents(dataset) == [picture(1)] * 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_metadata_csv", "file_name,words\na.png,A.\n", "train/metadata.csv: no column for the captions"),
        ("train_metadata_csv", "file_name,text\na.png\n", "train/metadata.csv, line 2: 1 values, expected 2"),
        ("train_metadata_csv", "file_name,text\n,A.\n", "train/metadata.csv, line 2: nothing under file_name"),
        ("train_metadata_csv", "file_name,text\n../../x,A.\n", 'image "train/../../x" lies outside of the image'),
        ("train_metadata_jsonl", '{"file_name": "a.png", "text": "A."}\n\n{', "train/metadata.jsonl, line 3: not JSON"),
        ("train_metadata_jsonl", "[]", "line 1: expected an object with file_name and a caption"),
        ("train_metadata_jsonl", '{"file_name": 3, "text": "A."}', "metadata.jsonl, line 1: nothing under file_name"),
        ("train_metadata_jsonl", '{"file_name": "a.png", "text": ""}', 'image "train/a.png": caption 0 is empty'),
        ("train_metadata_jsonl", "", "train/metadata.jsonl: no column for the images"),
    ],
)
def test_bad_metadata_is_one_line_with_the_row(tmp_path, name, content, message):
    image_folder(tmp_path, **{name: content})
    assert message in refusal(configured(tmp_path))


def test_a_folder_of_nothing_known_says_what_is(tmp_path):
    image_folder(tmp_path)
    assert refusal(configured(tmp_path)) == (
        f"{tmp_path}: expected .parquet files, or images with metadata.csv or metadata.jsonl (--images)"
    )


@pytest.mark.parametrize(
    ("images", "meant"),
    [("owner/name", True), ("owner/na.me-2@main", True), ("name", False), ("../a", False), ("/a/b", False),
     ("./a/b", False), ("a/b/c", False), ("s3:/a/b", False)],
)  # fmt: skip
def test_names_of_the_hub_are_told_from_paths(images, meant):
    assert hub.is_hub_name(images) == meant


def on_the_hub(monkeypatch, download):
    """A hub with one data set, at the commit c0ffee."""
    commit = SimpleNamespace(sha="c0ffee")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, **parameters: commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def test_a_name_of_the_hub_is_downloaded_below_the_home(home, monkeypatch):
    request = {}

    def download(name, **parameters):
        request.update(parameters, name=name)
        write(parameters["local_dir"] / "data" / "test-00000-of-00001.parquet", image=stored(1), text=["A."])

    on_the_hub(monkeypatch, download)
    dataset = read_dataset(configured(Path("owner/name@v1")))
    assert (request["name"], request["revision"], request["repo_type"]) == ("owner/name", "c0ffee", "dataset")
    assert dataset.root == home / "data" / "hub" / "owner--name@v1"
    assert contents(dataset) == [picture(1)]
    assert not any(pattern.endswith((".py", "*")) for pattern in request["allow_patterns"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert read_dataset(configured(Path("owner/name@v1"))).fingerprint == dataset.fingerprint  # without asking again


def test_a_download_that_was_cut_short_is_continued(home, monkeypatch):
    def cut_short(name, **parameters):
        write(parameters["local_dir"] / "a.parquet", image=stored(1), text=["A."])
        raise OSError("No space left on device")

    on_the_hub(monkeypatch, cut_short)
    assert "No space left on device" in refusal(configured(Path("owner/name")))
    on_the_hub(monkeypatch, lambda name, **p: write(p["local_dir"] / "b.parquet", image=stored(1), text=["A."]))
    assert len(read_dataset(configured(Path("owner/name"))).images) == 2


def test_a_folder_that_is_there_is_never_looked_for_on_the_hub(home, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    write(home / "owner" / "name" / "a.parquet", image=stored(1), text=["A."])
    assert len(read_dataset(configured(Path("owner/name"))).images) == 1


def test_a_download_that_fails_is_one_line(home, monkeypatch):
    def fail(*arguments, **parameters):
        raise OSError("404 Client Error.\n\nRepository Not Found")

    on_the_hub(monkeypatch, fail)
    assert refusal(configured(Path("owner/name"))) == (
        "owner/name: no such folder, and the hub's data set of that name cannot be downloaded: 404 Client Error. "
        "Repository Not Found (--images)"
    )


def test_an_image_folders_metadata_may_be_parquet(tmp_path):
    image_folder(tmp_path)
    write(tmp_path / "train" / "metadata.parquet", file_name=["a.png", "b.png"], text=["A.", "B."])
    dataset = read_dataset(configured(tmp_path))
    assert dataset.images["location"].to_pylist() == ["train/a.png", "train/b.png"]
    assert dataset.images["split"].to_pylist() == ["train", "train"]
    assert contents(dataset) == [picture(1)] * 2


def test_a_row_group_that_is_broken_gives_its_images_a_reason(tmp_path):
    write(tmp_path / "a.parquet", image=stored(1, 2, 3), text=["A.", "B.", "C."])
    dataset = read_dataset(configured(tmp_path))
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:30] = bytes(26)  # the first page's header
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"^its file a\.parquet is not readable as parquet: ") as caught:
        read_bytes(below(tmp_path, dataset.images["location"][0].as_py()))
    assert "\n" not in str(caught.value)
    assert read_bytes(below(tmp_path, dataset.images["location"][2].as_py())) == picture(3)
