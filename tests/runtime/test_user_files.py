"""Files of the user that are no plain files, nested without end, or not text: one line at once, no traceback."""

import gzip
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xmrank.baselines.baseline_registry import read_best_settings as read_best_of_baselines
from xmrank.baselines.towers import load_towers
from xmrank.config import BaselinesConfig, SupervisedConfig, TrainConfig
from xmrank.config.presets import read_yaml
from xmrank.datasets.caption_texts import cell_texts
from xmrank.datasets.reader_settings import (
    CocoSettings,
    CsvSettings,
    HuggingFaceSettings,
    KarpathySettings,
    WebDatasetSettings,
)
from xmrank.datasets.readers import read_dataset
from xmrank.embed.importing import read_ids
from xmrank.embed.loading import load_array
from xmrank.protocols import trec_reading
from xmrank.protocols.trec_reading import read_qrels
from xmrank.rank.queries import read_queries
from xmrank.runtime.errors import DataError, XmrankError
from xmrank.runtime.files import read_json_file, read_kept_json
from xmrank.supervised import arrays
from xmrank.supervised.arrays import read_arrays
from xmrank.supervised.layouts import read_features
from xmrank.supervised.stage import read_best_settings as read_best_of_supervised
from xmrank.supervised.stores import read_annotations
from xmrank.train.checkpoint_json import read_meta
from xmrank.train.trial_settings import read_best

READERS = {
    "--import-ids": lambda path: read_ids(path, "split"),
    "--import-images": lambda path: load_array(path, "--import-images"),
    "--labels": lambda path: read_annotations(["1"], path),
    "train --best": lambda path: read_best(TrainConfig(best=path)),
    "baselines --best": lambda path: read_best_of_baselines(BaselinesConfig(best=path)),
    "qrels": read_qrels,
    "supervised --best": lambda path: read_best_of_supervised(SupervisedConfig(best=path), ["x"]),
    "--preset": lambda path: read_yaml(f"{path}", path.parent),
}
"""Readers of files that flags name."""
DEEP = "[" * 5000 + "]" * 5000
HALF = json.dumps({"image_ids": ["\ud800"], "caption_ids": [1, 2, 3, 4, 5], "split": ["train"]})


CATEGORY = [{"id": 7, "name": "dog"}]


def refusal(read, *arguments):
    with pytest.raises(XmrankError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("settings", [KarpathySettings, CocoSettings, CsvSettings])
def test_a_pipe_as_annotations_is_refused_at_once(settings, tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    given = settings(annotations=tmp_path / "pipe.json", images=tmp_path)
    assert refusal(read_dataset, given) == f"{tmp_path}/pipe.json: not a regular file"


def test_a_pipe_among_the_files_of_a_data_set_is_refused_at_once(tmp_path):
    (tmp_path / "parquet").mkdir()
    os.mkfifo(tmp_path / "parquet/train.parquet")
    os.mkfifo(tmp_path / "a.tar")
    assert "train.parquet: an empty file" in refusal(read_dataset, HuggingFaceSettings(images=tmp_path / "parquet"))
    assert "a.tar: not a regular file" in refusal(read_dataset, WebDatasetSettings(images=tmp_path / "a.tar"))


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_pipe_is_refused_at_once(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refusal(read, tmp_path / "pipe")


@pytest.mark.parametrize("content", [DEEP, HALF, '{"image_ids": ', "\xff", "[]", "null"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_json_that_is_not_as_expected_is_one_line(read, content, tmp_path):
    (tmp_path / "file.yaml").write_bytes(content.encode("latin1"))
    message = refusal(read, tmp_path / "file.yaml")
    assert "file.yaml" in message


def test_a_preset_that_contains_itself_is_one_line(tmp_path):
    (tmp_path / "own.yaml").write_text("train: &a {x: *a}")
    assert "own.yaml is not YAML: Circular reference" in refusal(read_yaml, f"{tmp_path}/own.yaml", tmp_path)


def test_a_preset_of_aliases_of_aliases_is_one_line(tmp_path):
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20))]
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    assert "own.yaml is not YAML: more than 100,000 values" in refusal(read_yaml, f"{tmp_path}/own.yaml", tmp_path)


def test_packed_files_that_are_far_larger_than_they_look_are_refused(tmp_path, monkeypatch):
    for module in (trec_reading, arrays):
        monkeypatch.setattr(module, "FREE_BYTES", 1 << 17)
    (tmp_path / "a.qrels.gz").write_bytes(gzip.compress(b" " * (1 << 20)))
    assert "a.qrels.gz: not a TREC file: unpacks to more than 131072 bytes" in refusal(
        read_qrels, tmp_path / "a.qrels.gz"
    )
    np.savez_compressed(tmp_path / "a.npz", train_img=np.zeros((1 << 10, 1 << 7)))
    assert "a.npz: unpacks to 1048" in refusal(read_arrays, tmp_path / "a.npz")
    # Up to that size, any file may be packed as well as it can.
    (tmp_path / "a.qrels.gz").write_bytes(gzip.compress(b"q 0 item 1\n" * (1 << 13)))
    assert read_qrels(tmp_path / "a.qrels.gz") == {"q": {"item": 1}}
    np.savez_compressed(tmp_path / "a.npz", train_img=np.zeros((1 << 6, 1 << 7)))
    assert read_arrays(tmp_path / "a.npz")["a/train_img"].shape == (1 << 6, 1 << 7)


def test_class_lists_that_are_no_numbers_are_one_line(tmp_path):
    for content in (b"1\nx\n", b"\xff\n"):
        (tmp_path / "sky.txt").write_bytes(content)
        assert "sky.txt: not a list of image numbers" in refusal(read_annotations, ["im1.jpg"], tmp_path)
    (tmp_path / "sky.txt").unlink()
    os.mkfifo(tmp_path / "sky.txt")
    assert "no annotations here" in refusal(read_annotations, ["im1.jpg"], tmp_path)


@pytest.mark.parametrize(
    ("category", "categories", "message"),
    [
        (8, CATEGORY, "category 8 of an annotation is not among the categories"),
        (7, [*CATEGORY, {"id": 2**40, "name": "cat"}], f"category {2**40}, expected a number from 1 to 100000"),
        (7, [*CATEGORY, {"id": float("inf"), "name": "cat"}], "not COCO's instances JSON"),
    ],
)
def test_categories_that_cannot_be_are_one_line(category, categories, message, tmp_path):
    annotations = [{"image_id": 1, "category_id": category}]
    content = {"categories": categories, "images": [{"id": 1}], "annotations": annotations}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert message in refusal(read_annotations, ["1"], tmp_path / "a.json")


def test_queries_that_are_not_text_are_one_line(tmp_path):
    texts = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    assert "a.parquet: not readable as parquet: " in refusal(read_queries, tmp_path / "a.parquet", None, None)


def test_labels_that_are_no_class_numbers_are_one_line(tmp_path):
    for part in ("train", "test"):
        for kind in ("img", "txt"):
            np.save(tmp_path / f"{part}_{kind}.npy", np.ones((3, 2)))
        np.save(tmp_path / f"{part}_lab.npy", [1, 2, np.inf])
    assert "labels such as 1.0; expected class numbers" in refusal(read_features, "x", "", tmp_path, 0)
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other/x.npy", np.ones(3))
    assert "other: no features of a part; the file holds x" in refusal(read_features, "x", "", tmp_path / "other", 0)


def test_what_ends_lines_or_commands_terminals_is_shown_as_its_code():
    message = str(DataError("no such file: a\nb\x1b[2J\u2028\ud800é"))
    assert message == "no such file: a\\nb\\x1b[2J\\u2028\\ud800é"


@pytest.mark.parametrize("content", [DEEP, '{"a": ', "\xff", "[]", "null"])
def test_a_damaged_file_that_xmrank_keeps_is_one_line(content, tmp_path):
    path = tmp_path / "kept.json"
    path.write_bytes(content.encode("latin1"))
    assert refusal(read_kept_json, path, dict).startswith(f"{path}: damaged")
    path.unlink()
    os.mkfifo(path)
    assert refusal(read_kept_json, path, dict) == f"{path}: not a regular file"


@pytest.mark.parametrize("read", [read_meta, lambda path: load_towers(path.parent)], ids=["state", "baseline"])
def test_a_pipe_as_weights_is_refused_at_once(read, tmp_path):
    (tmp_path / "baseline.json").write_text("{}")
    path = tmp_path / "towers.safetensors"
    os.mkfifo(path)
    assert refusal(read, path) == f"{path}: not a regular file"


def test_half_a_character_is_found_in_names_and_values(tmp_path):
    path = tmp_path / "file.json"
    for value in ({"\ud800": 1}, [["\udfff"]]):
        path.write_text(json.dumps(value))
        assert refusal(read_json_file, path, "--x") == f"{path}: not text: holds half a character (--x)"
    path.write_text(json.dumps(["\U0001f600", "\\ud800"]))  # a whole one from two halves, and an escaped backslash
    assert read_json_file(path, "--x") == ["\U0001f600", "\\ud800"]


@pytest.mark.parametrize("settings", [KarpathySettings, CocoSettings])
def test_deep_annotations_are_one_line(settings, tmp_path):
    (tmp_path / "a.json").write_text(DEEP)
    assert "a.json: not JSON: " in refusal(read_dataset, settings(annotations=tmp_path / "a.json", images=tmp_path))


def test_a_caption_that_looks_like_a_deep_list_is_a_caption():
    cell = '["a",' + DEEP
    assert cell_texts(cell) == [cell]
