"""The reader of tables in text form."""

from dataclasses import replace
from pathlib import Path

import pytest
from readers_samples import refusal

from xmrank.datasets.reader_settings import ColumnsConfig, CsvSettings
from xmrank.datasets.readers import read_dataset
from xmrank.runtime.errors import ConfigError


def configured(folder, content, name="pairs.csv", **parameters):
    """The configuration of a table, with a folder for its images."""
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return CsvSettings(annotations=folder / name, images=folder / "pictures", **parameters)


def test_rows_with_one_path_are_captions_of_one_image(tmp_path):
    content = 'path,caption,split,id,label\na.jpg,A dog.,val,7,3\nb/c.jpg,"Two ""dogs"", one cat.",test,8,\n'
    content += 'a.jpg,"A dog,\nrunning.",val,7,3\n'
    dataset = read_dataset(configured(tmp_path, content))
    assert dataset.images.to_pylist() == [
        {"image_id": "7", "location": "a.jpg", "split": "val", "labels": [3]},
        {"image_id": "8", "location": "b/c.jpg", "split": "test", "labels": []},
    ]
    assert dataset.captions["caption_id"].to_pylist() == ["7#0", "7#1", "8#0"]
    assert dataset.captions["text"].to_pylist() == ["A dog.", "A dog,\nrunning.", 'Two "dogs", one cat.']


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.tsv", 'image\tcaption\na.jpg\tA "big" dog, running.\n'),
        ("results.csv", 'image_name| comment_number| comment\r\na.jpg| 0| A "big" dog, running.\r\n'),  # Flickr30k's
        ("captions.txt", '\ufeffimage,caption\na.jpg,"A ""big"" dog, running."\n'),  # with a byte order mark
        ("pairs.csv", 'file_name;text\na.jpg;A "big" dog, running.'),
        ("pairs.csv", 'raw,filename\n"[""A \\""big\\"" dog, running.""]",a.jpg'),  # a list in JSON
    ],
)
def test_delimiters_and_usual_names_are_found(tmp_path, name, content):
    dataset = read_dataset(configured(tmp_path, content, name))
    assert dataset.images["location"].to_pylist() == ["a.jpg"]
    assert dataset.captions["text"].to_pylist() == ['A "big" dog, running.']


def test_an_id_that_is_made_from_a_signed_uri_has_no_signature(tmp_path):
    table = "path,caption\na.jpg?X-Amz-Signature=SECRET&size=2,A dog.\n"
    settings = configured(tmp_path, table)
    remote = read_dataset(replace(settings, images=Path("https://127.0.0.1:9/images")))
    (image,) = remote.images.to_pylist()
    assert (image["image_id"], image["location"]) == ("a.jpg?size=2", "a.jpg?X-Amz-Signature=SECRET&size=2")
    assert "SECRET" not in str(remote.captions.to_pylist())
    assert read_dataset(settings).images["image_id"].to_pylist() == ["a.jpg?X-Amz-Signature=SECRET&size=2"]


def test_numbered_columns_are_captions_of_one_image(tmp_path):
    dataset = read_dataset(configured(tmp_path, "path,caption_0,caption_1\na.jpg,A dog.,One dog.\nb.jpg,,Two.\n"))
    assert dataset.captions["text"].to_pylist() == ["A dog.", "One dog.", "Two."]


def test_flags_name_the_columns(tmp_path):
    content = "where,german,english,part,number\na.jpg,Ein Hund.,A dog.,dev,1\n"
    columns = ColumnsConfig(image="where", caption=("english", "german"), id="number")
    dataset = read_dataset(configured(tmp_path, content, columns=columns, split_field="part"))
    assert dataset.images.to_pylist() == [{"image_id": "1", "location": "a.jpg", "split": "val", "labels": []}]
    assert dataset.captions["text"].to_pylist() == ["A dog.", "Ein Hund."]


def test_files_may_be_named_after_their_splits(tmp_path):
    configured(tmp_path, "path,caption\na.jpg,A.\n", "train.csv")
    configured(tmp_path, "path,caption\nb.jpg,B.\n", "validation.csv")
    config = CsvSettings(annotations=tmp_path / "{train,validation}.csv", images=tmp_path / "pictures")
    assert read_dataset(config).images["split"].to_pylist() == ["train", "val"]


def test_splits_that_nobody_names_are_drawn_by_id(tmp_path):
    content = "path,caption\n" + "".join(f"{i}.jpg,A.\n" for i in range(1000))
    splits = read_dataset(configured(tmp_path, content)).images["split"].to_pylist()
    assert [round(splits.count(name) / 1000, 1) for name in ("train", "val", "test")] == [0.8, 0.1, 0.1]
    fewer = read_dataset(configured(tmp_path, "path,caption\n7.jpg,A.\n8.jpg,A.\n")).images["split"].to_pylist()
    assert fewer == splits[7:9]
    assert set(read_dataset(configured(tmp_path, content, held_out=0.0)).images["split"].to_pylist()) == {"train"}


def test_absolute_paths_below_the_folder_are_taken(tmp_path):
    config = configured(tmp_path, f"path,caption\n{tmp_path}/pictures/b/a.jpg,A.\n")
    assert read_dataset(config).images["location"].to_pylist() == ["b/a.jpg"]


def test_names_of_labels_are_numbered(tmp_path):
    dataset = read_dataset(configured(tmp_path, "path,caption,label\na.jpg,A.,dog\nb.jpg,B.,cat\nc.jpg,C.,dog\n"))
    assert dataset.images["labels"].to_pylist() == [[1], [0], [1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "pairs.csv: no column for the images; expected one named image, path, image_path or the like, or its name "
         "in --columns.image; the columns: "),
        ("path,words\n", "pairs.csv: no column for the captions; expected one named caption, captions, text or the "
         "like, or its name in --columns.caption; the columns: path, words"),
        ("path,caption,path\n", 'pairs.csv: two columns are named "path"'),
        ("path,caption\n", "pairs.csv: no images in it; expected at least one"),
        ("path,caption\na.jpg\n", "pairs.csv, line 2: 1 values, expected 2: path, caption"),
        ("path,caption\n\na.jpg,A dog, running\n", "pairs.csv, line 3: 3 values, expected 2: path, caption"),
        ("path,caption\n,A.\n", "pairs.csv, line 2: nothing under path"),
        ("path,caption\na.jpg, \n", 'pairs.csv: image "a.jpg": caption 0 is empty in pairs.csv, line 2'),
        ("path,caption,split\na.jpg,A.,\n", "pairs.csv, line 2: nothing under split"),
        ('path,caption\na.jpg,"A\n', 'pairs.csv, line 2: a quotation mark that is not closed, or not doubled as ""'),
        (b"path,caption\na.jpg,A.\nb.jpg,\xe4\n", "pairs.csv, line 3: not UTF-8"),
        ("path,caption\n../a.jpg,A.\n", 'pairs.csv: image "../a.jpg" lies outside of the image folder'),
        ("path,caption\n/etc/a.jpg,A.\n", 'pairs.csv: image "/etc/a.jpg" lies outside of the image folder'),
        ("path,caption,split\na.jpg,A.,train\na.jpg,B.,val\n",
         'pairs.csv, line 3: image "a.jpg" is a.jpg of the split val, and a.jpg of the split train above'),
        ("path,caption,id\na.jpg,A.,1\nb.jpg,B.,1\n",
         'pairs.csv, line 3: image "1" is b.jpg of the split None, and a.jpg of the split None above'),
        ("path,caption,label\na.jpg,A.,4294967296\n",
         'pairs.csv: image "a.jpg": label 4294967296, expected a 32-bit number'),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_with_the_row(tmp_path, content, message):
    assert refusal(configured(tmp_path, content)).removesuffix(" (--max-broken 0.01)") == message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"split_field": "fold"}, "--split-field fold: no such column in pairs.csv; its columns: path, caption"),
        ({"columns": ColumnsConfig(image="file")}, "--columns.image file: no such column in pairs.csv"),
        ({"columns": ColumnsConfig(caption=("caption", "words"))}, "--columns.caption words: no such column"),
        ({"columns": ColumnsConfig(id="number")}, "--columns.id number: no such column in pairs.csv"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_its_flag(tmp_path, flags, message):
    assert refusal(configured(tmp_path, "path,caption\na.jpg,A.\n", **flags), ConfigError).startswith(message)
