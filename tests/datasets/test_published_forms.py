"""The forms in which the field's data sets are distributed, and what people make of them with pandas and by hand."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers_samples import add, picture, refusal, tarfile

from xmrank.datasets.locations import read_bytes
from xmrank.datasets.reader_settings import (
    CocoSettings,
    ColumnsConfig,
    CsvSettings,
    FolderSettings,
    HuggingFaceSettings,
    JsonSettings,
    KarpathySettings,
    WebDatasetSettings,
)
from xmrank.datasets.readers import read_dataset
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.paths import below


def table(folder, content, name="pairs.csv", **parameters):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return CsvSettings(annotations=folder / name, images=folder, **parameters)


def pairs_of(dataset):
    """Image id → its captions."""
    pairs = {image: [] for image in dataset.images["image_id"].to_pylist()}
    for caption in dataset.captions.to_pylist():
        pairs[caption["image_id"]].append(caption["text"])
    return pairs


def test_flickrs_token_files_have_no_header(tmp_path):
    content = 'a.jpg#1\tTwo "dogs" .\r\na.jpg#0\tA dog .\nb.jpg.1#0\tA cat | a bird .\nc.jpg\tno number\n'
    dataset = read_dataset(table(tmp_path, content, "Flickr8k.token.txt"), max_broken=0.3)
    assert pairs_of(dataset) == {"a.jpg": ['Two "dogs" .', "A dog ."], "b.jpg.1": ["A cat | a bird ."]}
    # Judgements of Flickr8k name captions so.
    assert dataset.captions["caption_id"].to_pylist() == ["a.jpg#1", "a.jpg#0", "b.jpg.1#0"]
    assert dataset.left_out[0]["row"] == "Flickr8k.token.txt, line 4"


def test_quotation_marks_between_bars_are_part_of_the_caption(tmp_path):
    content = 'image_name| comment_number| comment\na.jpg| 0| " Stop " says a sign .\na.jpg| 1| A "sign" .\n'
    content += 'b.jpg| 0   A row without its third bar .\nb.jpg| 1| "A quoted one ."\n'
    dataset = read_dataset(table(tmp_path, content, "results.csv"), max_broken=0.25)
    assert pairs_of(dataset) == {"a.jpg": ['" Stop " says a sign .', 'A "sign" .'], "b.jpg": ['"A quoted one ."']}
    assert [(entry["row"], entry["reason"]) for entry in dataset.left_out] == [
        ("results.csv, line 4", "2 values, expected 3: image_name, comment_number, comment")
    ]
    assert dataset.unused == {"column comment_number": 1}


@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_tables_that_a_program_has_quoted_are_read_so(tmp_path, delimiter):
    rows = ["path,caption", 'a.jpg,"A ""big"" dog"', 'b.jpg,"one; two"', "c.jpg,plain"]
    content = "\n".join(row.replace(",", delimiter) for row in rows)
    assert list(pairs_of(read_dataset(table(tmp_path, content))).values()) == [['A "big" dog'], ["one; two"], ["plain"]]


def test_a_quotation_mark_that_nothing_closes_costs_its_own_row(tmp_path):
    content = (
        'path,caption\na.jpg,"A dog\nb.jpg,A cat\nc.jpg,A bird"\nd.jpg,"A ""tall"" man,\nrunning"\ne.jpg,"A "x" y"\n'
    )
    dataset = read_dataset(table(tmp_path, content), max_broken=0.5)
    assert pairs_of(dataset) == {"b.jpg": ["A cat"], "c.jpg": ['A bird"'], "d.jpg": ['A "tall" man,\nrunning']}
    assert [entry["row"] for entry in dataset.left_out] == ["pairs.csv, line 2", "pairs.csv, line 7"]


def test_rows_below_an_open_quotation_mark_are_known_without_suffixes_too(tmp_path):
    content = 'image,caption\nphoto1,One\nphoto2,"Two\nphoto3,Three\nphoto4,"Four"\n'
    dataset = read_dataset(table(tmp_path, content), max_broken=0.5)
    assert pairs_of(dataset) == {"photo1": ["One"], "photo3": ["Three"], "photo4": ["Four"]}


def test_an_id_a_row_is_not_an_image_a_row(tmp_path):
    content = "id,image,caption\n0,a.jpg,A dog\n1,b.jpg,A cat\n2,a.jpg,One dog\n"
    dataset = read_dataset(table(tmp_path, content))
    assert pairs_of(dataset) == {"a.jpg": ["A dog", "One dog"], "b.jpg": ["A cat"]}
    assert dataset.unused == {"column id (it numbers rows; images have their paths as ids)": 1}
    named = table(tmp_path, content, columns=ColumnsConfig(id="id"))
    assert refusal(named, ConfigError) == (
        '--columns.id id: pairs.csv, line 4: image a.jpg has the id "2", and "0" above; expected one'
    )


def test_ids_that_begin_anew_in_every_file_get_its_path(tmp_path):
    table(tmp_path, "id,path,caption\n0,a.jpg,A\n1,b.jpg,B\n", "train.csv")
    dataset = read_dataset(table(tmp_path, "id,path,caption\n0,c.jpg,C\n", "test.csv"))
    assert list(pairs_of(dataset)) == ["0"]
    both = CsvSettings(annotations=tmp_path / "{train,test}.csv", images=tmp_path)
    assert list(pairs_of(read_dataset(both))) == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ("\"['A dog.', 'It''s one']\"", None),
        ('"[\'A dog.\', ""It\'s one.""]"', ["A dog.", "It's one."]),
        ("\"['A dog.'\n 'Two']\"", ["A dog.", "Two"]),  # as NumPy writes arrays
        ('"[""A dog."", ""Zwei H\\u00fcnde""]"', ["A dog.", "Zwei Hünde"]),
        ("['One']", ["One"]),
        ("['One', None]", None),
        ("[sic] a dog", ["[sic] a dog"]),
        ("['tis a dog", ["['tis a dog"]),
    ],
)
def test_lists_that_are_written_as_text_are_lists(tmp_path, cell, texts):
    dataset = read_dataset(table(tmp_path, f"path;captions\na.jpg;{cell}\n"))
    if texts:
        assert pairs_of(dataset) == {"a.jpg": texts}


def test_a_list_that_was_cut_off_is_counted(tmp_path):
    content = "path;captions\na.jpg;['A dog', 'Two']\nb.jpg;['A cat', 'Th\n"
    dataset = read_dataset(table(tmp_path, content), max_broken=0.5)
    assert pairs_of(dataset) == {"a.jpg": ["A dog", "Two"]}
    assert dataset.left_out[0]["reason"] == "caption 0 begins like a list and is none in pairs.csv, line 3"


def test_open_clips_columns_and_labels_that_pandas_made_floats(tmp_path):
    content = "filepath\ttitle\tlabel\na.jpg\tA dog\t3.0\nb.jpg\tA cat\t\n"
    dataset = read_dataset(table(tmp_path, content))
    assert dataset.images["labels"].to_pylist() == [[3], []]
    pq.write_table(
        pa.table({"image": ["a.jpg", "b.jpg"], "text": ["A", "B"], "label": [3.0, None]}), tmp_path / "a.parquet"
    )
    assert read_dataset(HuggingFaceSettings(images=tmp_path)).images["labels"].to_pylist() == [[3], []]


@pytest.mark.parametrize("settings", [JsonSettings, KarpathySettings])
def test_lists_of_pairs_have_a_file_for_each_split(tmp_path, settings):
    train = [{"image": "f/a.jpg", "caption": "A", "image_id": 7}, {"image": "f/a.jpg", "caption": "B", "image_id": 7}]
    (tmp_path / "flickr30k_train.json").write_text(json.dumps(train))
    (tmp_path / "flickr30k_test.json").write_text(json.dumps([{"image": "f/b.jpg", "caption": ["C", "D"]}]))
    dataset = read_dataset(settings(annotations=tmp_path / "flickr30k_*.json", images=tmp_path))
    assert pairs_of(dataset) == {"7": ["A", "B"], "f/b.jpg": ["C", "D"]}
    splits = dict(zip(dataset.images["location"].to_pylist(), dataset.images["split"].to_pylist(), strict=True))
    assert splits == {"f/a.jpg": "train", "f/b.jpg": "test"}


def test_columns_are_those_of_all_rows(tmp_path):
    rows = [{"image": "a.jpg", "text": "A"}, {"image": "b.jpg", "text": "B", "label": 3, "split": "val"}, 7, "{"]
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    message = refusal(JsonSettings(annotations=tmp_path / "all.jsonl", images=tmp_path))
    assert message.startswith("all.jsonl, line 3: expected an object with image and a caption (1 more like it;")
    (tmp_path / "all.jsonl").write_text("\n".join(lines[1::-1]).replace('"split"', '"part"'))
    dataset = read_dataset(JsonSettings(annotations=tmp_path / "all.jsonl", images=tmp_path))
    assert dataset.images["labels"].to_pylist() == [[3], []]


def karpathy(folder, entries):
    (folder / "own.json").write_text(json.dumps({"images": entries}))
    return KarpathySettings(annotations=folder / "own.json", images=folder)


def test_names_and_sentids_of_ones_own_karpathy_file_may_repeat(tmp_path):
    entries = [
        {"filepath": part, "filename": "0.jpg", "split": part, "sentences": [{"raw": "A", "sentid": 0}]}
        for part in ("train", "test")
    ]
    dataset = read_dataset(karpathy(tmp_path, entries))
    assert dataset.captions["caption_id"].to_pylist() == ["train/0.jpg#0", "test/0.jpg#0"]
    assert dataset.unused == {"caption ids of the data (they repeat)": 2}


def test_splits_that_no_entry_names_are_drawn(tmp_path):
    entries = [{"filename": f"{n}.jpg", "sentences": ["A"]} for n in range(100)]
    dataset = read_dataset(karpathy(tmp_path, entries))
    assert set(dataset.images["split"].to_pylist()) == {"train", "val", "test"} and dataset.drawn
    entries[3]["split"] = "val"
    assert '"0.jpg" has no split, others have one, like "val"' in refusal(karpathy(tmp_path, entries))


def test_ids_of_cocos_files_may_begin_anew(tmp_path):
    for part in ("train", "val"):
        content = {"images": [{"id": 1, "file_name": f"{part}.jpg"}]}
        content["annotations"] = [{"id": 1, "image_id": 1, "caption": part}]
        (tmp_path / f"captions_{part}.json").write_text(json.dumps(content))
    dataset = read_dataset(CocoSettings(annotations=tmp_path / "captions_*.json", images=tmp_path))
    assert pairs_of(dataset) == {"captions_train/1": ["train"], "captions_val/1": ["val"]}


def write(folder, **columns):
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return HuggingFaceSettings(images=folder)


def stored(*images):
    return pa.array([{"bytes": content, "path": path} for content, path in images])


def contents(dataset):
    return [read_bytes(below(dataset.root, location)) for location in dataset.images["location"].to_pylist()]


def test_filepath_and_filename_are_folder_and_file(tmp_path):
    columns = {"filepath": ["train2014", "val2014"], "filename": ["a.jpg", "b.jpg"], "sentences": [["A"], ["B"]]}
    dataset = read_dataset(write(tmp_path, **columns))
    assert dataset.images["location"].to_pylist() == ["train2014/a.jpg", "val2014/b.jpg"]
    table(tmp_path, "filepath,filename,caption\nx/a.jpg,a.jpg,A\n")
    (tmp_path / "a.parquet").unlink()
    dataset = read_dataset(CsvSettings(annotations=tmp_path / "pairs.csv", images=tmp_path))
    assert dataset.images["location"].to_pylist() == ["x/a.jpg"]


def test_stored_pictures_of_one_path_are_one_image_if_their_bytes_are_the_same(tmp_path):
    one, two = picture(1), picture(2)
    images = stored((one, "x.png"), (one, "x.png"), (two, "x.png"), (two, None))
    dataset = read_dataset(write(tmp_path, image=images, caption=["A", "B", "C", "D"]))
    assert pairs_of(dataset) == {"a/0": ["A", "B"], "a/2": ["C"], "a/3": ["D"]}
    assert contents(dataset) == [one, two, two]


def test_one_id_of_several_stored_pictures_is_refused(tmp_path):
    images = stored((picture(1), None), (picture(2), None))
    settings = write(tmp_path, image=images, image_id=[7, 7], caption=["A", "B"])
    assert refusal(settings).startswith('a.parquet: row 1: image "7" is a.parquet::image/1 of the split None, and ')
    each = HuggingFaceSettings(images=tmp_path, columns=ColumnsConfig(id="image"))
    assert pairs_of(read_dataset(each)) == {"a/0": ["A"], "a/1": ["B"]}


def test_one_id_of_pictures_in_several_files_gets_the_files_name(tmp_path):
    for part, grey in (("train", 1), ("test", 2)):
        images = stored((picture(grey), None))
        pq.write_table(pa.table({"image": images, "id": [0], "caption": [part]}), tmp_path / f"{part}.parquet")
    dataset = read_dataset(HuggingFaceSettings(images=tmp_path))
    assert pairs_of(dataset) == {"test/0": ["test"], "train/0": ["train"]}


@pytest.mark.parametrize("group", [1, 2])
def test_stored_pictures_may_be_paths_without_bytes(tmp_path, group):
    (tmp_path / "b.png").write_bytes(picture(2))
    images = stored((picture(1), "a.png"), (None, "b.png"))
    pq.write_table(pa.table({"image": images, "text": ["A", "B"]}), tmp_path / "a.parquet", row_group_size=group)
    assert contents(read_dataset(HuggingFaceSettings(images=tmp_path))) == [picture(1), picture(2)]


def tar(folder, *members):
    with tarfile.open(folder / "a.tar", "w") as file:
        for name, content in members:
            add(file, name, content)
    return WebDatasetSettings(images=folder)


def test_keys_of_tars_may_have_dots(tmp_path):
    names = ("plain", "shop v2.1", "shop v2.2", "deep.er/b.c")
    members = [(f"{name}{end}", content) for name in names for end, content in ((".jpg", b"x"), (".txt", b"A."))]
    dataset = read_dataset(tar(tmp_path, *members))
    assert list(pairs_of(dataset)) == list(names) and dataset.left_out == []


def test_masks_and_other_members_of_a_sample_are_said_to_be_unused(tmp_path):
    members = [("a.jpg", b"x"), ("a.txt", b"A."), ("a.mask.png", b"y"), ("a.de.txt", b"Ein A."), ("a.flac", b"z")]
    dataset = read_dataset(tar(tmp_path, *members))
    assert pairs_of(dataset) == {"a": ["A."]}
    assert dataset.unused == {"members .mask.png": 1, "members .de.txt": 1, "members .flac": 1}
    assert list(pairs_of(read_dataset(tar(tmp_path, ("a.image.jpg", b"x"), ("a.caption.txt", b"A."))))) == ["a"]


def test_a_key_that_occurs_twice_pairs_nothing(tmp_path):
    members = [("a.jpg", b"x"), ("a.txt", b"A."), ("b.jpg", b"x"), ("b.txt", b"B."), ("a.jpg", b"y"), ("a.txt", b"C.")]
    dataset = read_dataset(tar(tmp_path, *members), max_broken=0.5)
    assert pairs_of(dataset) == {"b": ["B."]}
    assert dataset.left_out == [{"image_id": "a", "reason": "its key occurs twice in the tar", "captions": 1}]


def test_lines_end_at_newlines_alone_and_suffixes_have_any_case(tmp_path):
    (tmp_path / "a.JPG").write_bytes(b"x")
    (tmp_path / "a.TXT").write_bytes("One\u2028line\u0085.\r\nTwo\x0blines\x0c.\n".encode())
    (tmp_path / "b.txt").write_text("no image")
    (tmp_path / "c.heic").write_bytes(b"x")
    dataset = read_dataset(FolderSettings(images=tmp_path))
    assert pairs_of(dataset) == {"a.JPG": ["One\u2028line\u0085.", "Two\x0blines\x0c."]}
    assert dataset.unused == {"texts without an image of their name": 1, "files .heic": 1}
    content = "path,caption\na.JPG,One\u2028line\ra.JPG,x\r\n"
    assert pairs_of(read_dataset(table(tmp_path, content.replace("a.JPG,x", "two")))) == {
        "a.JPG": ["One\u2028line\rtwo"]
    }


SPLIT_NAMES = {
    "dev": "val",
    "Val": "val",
    "validation": "val",
    "Training ": "train",
    "restval": "train",
    "align": "align",
}


@pytest.mark.parametrize(("name", "split"), SPLIT_NAMES.items())
def test_splits_have_one_table_of_names(tmp_path, name, split):
    rows = read_dataset(table(tmp_path, f"path,caption,split\na.jpg,A,{name}\n"))
    entries = read_dataset(karpathy(tmp_path, [{"filename": "a", "split": name, "sentences": ["A"]}]))
    assert rows.images["split"].to_pylist() == entries.images["split"].to_pylist() == [split]
