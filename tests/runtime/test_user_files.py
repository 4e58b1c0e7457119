"""Files of the user that are no plain files, nested without end, or not text: one line at once, no traceback."""

import json
import os

import pytest

from xmrank.baselines.baseline_registry import read_best_settings as read_best_of_baselines
from xmrank.config import BaselinesConfig, SupervisedConfig, TrainConfig
from xmrank.config.presets import read_yaml
from xmrank.datasets.csv_table import cell_texts
from xmrank.datasets.reader_settings import (
    CocoSettings,
    CsvSettings,
    HuggingFaceSettings,
    KarpathySettings,
    WebDatasetSettings,
)
from xmrank.datasets.readers import read_dataset
from xmrank.embed.importing import load_array, read_ids
from xmrank.runtime.errors import XmrankError
from xmrank.runtime.files import read_json_file
from xmrank.supervised.stage import read_best_settings as read_best_of_supervised
from xmrank.supervised.stores import read_annotations
from xmrank.train.trial_settings import read_best

READERS = {
    "--import-ids": lambda path: read_ids(path, "split"),
    "--import-images": lambda path: load_array(path, "--import-images"),
    "--labels": lambda path: read_annotations(["1"], path),
    "train --best": lambda path: read_best(TrainConfig(best=path)),
    "baselines --best": lambda path: read_best_of_baselines(BaselinesConfig(best=path)),
    "supervised --best": lambda path: read_best_of_supervised(SupervisedConfig(best=path), ["x"]),
    "--preset": lambda path: read_yaml(f"{path}", path.parent),
}
"""Readers of files that flags name."""
DEEP = "[" * 5000 + "]" * 5000
HALF = json.dumps({"image_ids": ["\ud800"], "caption_ids": [1, 2, 3, 4, 5], "split": ["train"]})


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
