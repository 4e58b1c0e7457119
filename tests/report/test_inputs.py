"""Inputs with right hashes and wrong values: one line that names the file."""

import json
from dataclasses import replace

import pytest

from xmrank.report.inputs import _read_losses, _read_trials
from xmrank.report.recall_curves import draw_recall_curves
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import Manifest, read_manifest

HISTORY = {"loss": "listnet", "direction": "i2t", "seed": 0, "best_epoch": 1, "epochs": [{"epoch": 1, "hit": None}]}
CURVE = {"method": "listnet", "ranker": "", "direction": "i2t", "protocol": "lists", "k": [1, 5], "recall": [0.5, 1]}


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 5},
        {"epochs": [5]},
        {"epochs": [{"hit": "x"}]},
        {"epochs": [{"epoch": float("nan")}]},
        {"seed": "x"},
        {"seed": None},
        {"best_epoch": "1"},
        {"best_epoch": float("inf")},
    ],
)
def test_a_history_of_other_types_is_one_line(tmp_path, change):
    path = tmp_path / "listnet-i2t-seed0/history.json"
    path.parent.mkdir()
    path.write_text(json.dumps(HISTORY))
    assert len(_read_trials(tmp_path, [])) == 1
    path.write_text(json.dumps(HISTORY | change))
    with pytest.raises(DataError, match=r"history\.json: expected numbers as seed and best_epoch"):
        _read_trials(tmp_path, [])


def test_losses_that_are_no_list_are_one_line(tmp_path):
    manifest = Manifest("train", {"losses": ["listnet"]}, {}, {})
    assert _read_losses(manifest, tmp_path / "manifest.json") == ["listnet"]
    with pytest.raises(DataError, match=r"manifest\.json: expected a list of the configuration's losses, it is 5"):
        _read_losses(replace(manifest, config={"losses": 5}), tmp_path / "manifest.json")


@pytest.mark.parametrize(
    "text",
    [
        "[1",
        "[]",
        '{"rows": 5}',
        '{"rows": [5]}',
        json.dumps({"rows": [{name: CURVE[name] for name in CURVE if name != "k"}]}),
        json.dumps({"rows": [CURVE | {"recall": [0.5]}]}),
        json.dumps({"rows": [CURVE | {"k": "12"}]}),
        json.dumps({"rows": [CURVE | {"k": [1, None]}]}),
        json.dumps({"rows": [CURVE | {"recall": ["a", 1]}]}),
    ],
)
def test_curves_that_are_none_are_one_line(tmp_path, text):
    path = tmp_path / "curves.json"
    path.write_text(json.dumps({"rows": [CURVE]}))
    assert draw_recall_curves(path, []) == []
    path.write_text(text)
    with pytest.raises(DataError, match=r"curves\.json: "):
        draw_recall_curves(path, [])


def test_a_fingerprint_that_is_no_text_is_one_line(tmp_path):
    manifest = Manifest("evaluate", {}, {"lists": 5}, {}).with_fingerprint()
    (tmp_path / "manifest.json").write_text(json.dumps(vars(manifest)))
    with pytest.raises(DataError, match=r'manifest\.json: not the .* no fingerprint of the input "lists"'):
        read_manifest(tmp_path, "evaluate")
