"""Damage between two runs, or beside a lost manifest, is found: what was finished is recorded with its hashes."""

import json

import pytest
from changed_stages import flip_byte

from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_text
from xmrank.runtime.pieces import group_outputs, is_piece, record_piece

ENTRY = {"bytes": 1, "sha256": "0"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "rankers"


def opened(folder, **flags):
    return StageDirectory.open(folder, "train", config={}, inputs={}, **flags)


def trained(folder, names=("one", "two")):
    """A stage with two trials of two files each, not finished."""
    stage = opened(folder)
    for name in names:
        files = [folder / "trials" / name / file for file in ("ranker", "history")]
        for file in files:
            write_text(file, f"{name} {file.name}")
        record_piece(stage.work, name, files)
    return stage


def trials(folder):
    return sorted(str(path.relative_to(folder / "trials")) for path in folder.glob("trials/*/*"))


def test_a_trial_of_which_a_file_was_damaged_is_made_anew_as_a_whole(folder, capsys):
    trained(folder)
    flip_byte(folder / "trials/one/ranker", 0)
    opened(folder)
    assert trials(folder) == ["two/history", "two/ranker"]
    assert (folder / "damaged/trials/one/ranker").exists()
    lines = capsys.readouterr().err.splitlines()
    fault = "damaged: its contents are not those in the record of what was finished; moved to damaged/"
    assert f"train: {folder / 'trials/one/ranker'}: {fault}" in lines
    # Made anew, it is recorded anew.
    manifest = trained(folder, ["one"]).finish(counts={})
    assert len(manifest.outputs) == 4
    assert opened(folder).done == manifest


@pytest.mark.parametrize("damaged", [None, "one/ranker", "two/history"])
def test_a_damaged_file_is_not_declared_good_because_the_manifest_is_lost(folder, damaged):
    before = trained(folder).finish(counts={})
    (folder / "manifest.json").unlink()
    if damaged:
        flip_byte(folder / "trials" / damaged, 0)
    stage = opened(folder)
    assert stage.done is None
    kept = [name for name in ("one", "two") if damaged is None or not damaged.startswith(name)]
    assert {name.partition("/")[0] for name in trials(folder)} == set(kept)
    # Also when this run is killed, and the next one finds more damage.
    del stage
    flip_byte(folder / "trials" / kept[0] / "ranker", 0)
    opened(folder)
    assert not (folder / "trials" / kept[0] / "ranker").exists()
    assert trained(folder).finish(counts={}).fingerprint == before.fingerprint


def test_a_damaged_file_beside_a_manifest_takes_its_piece_along(folder):
    before = trained(folder).finish(counts={})
    flip_byte(folder / "trials/one/ranker", 0)
    opened(folder)
    assert trials(folder) == ["two/history", "two/ranker"]
    assert trained(folder, ["one"]).finish(counts={}).fingerprint == before.fingerprint


def test_what_changes_while_the_stage_runs_is_not_hashed_as_good(folder):
    stage = trained(folder)
    flip_byte(folder / "trials/one/ranker", 0)
    with pytest.raises(DataError, match="trials/one/ranker: damaged: has changed since it was written"):
        stage.finish(counts={})
    assert not (folder / "manifest.json").exists()


def test_a_piece_in_the_folder_of_intermediate_results_is_made_anew(folder):
    work = opened(folder).work
    for name in ("shard-0.npy", "shard-0.json", "shard-1.json"):
        write_text(work / name, name)
    record_piece(work, "shard-0", [work / "shard-0.npy", work / "shard-0.json"])
    flip_byte(work / "shard-0.npy", 3)
    opened(folder)
    assert sorted(path.name for path in work.iterdir()) == ["pieces", "shard-1.json"]
    assert not list((work / "pieces").iterdir())


def test_overwrite_forgets_what_was_finished(folder):
    trained(folder).finish(counts={})
    opened(folder, overwrite=True)
    assert json.loads((folder / "plan.json").read_text())["finished"] == []


@pytest.mark.parametrize(
    "value",
    [None, [], {"../a": ENTRY}, {"/a": ENTRY}, {"a": None}, {"a": {"bytes": "1", "sha256": "0"}}, {"a": {"bytes": 1}}],
)
def test_a_record_is_data_and_not_trust(folder, value):
    write_text(folder.parent / "a", "not ours")
    stage = opened(folder)
    write_text(stage.work / "pieces" / "x.json", json.dumps(value))
    plan = json.loads((folder / "plan.json").read_text())
    write_text(folder / "plan.json", json.dumps({**plan, "finished": [value]}))
    assert not is_piece(folder, value)
    assert opened(folder).done is None
    assert (folder.parent / "a").read_text() == "not ours"


def test_outputs_that_nobody_recorded_are_pieces_of_their_own():
    outputs = {name: {"bytes": n, "sha256": name} for n, name in enumerate("abcd")}
    pieces = [{"b": ENTRY, "a": ENTRY, "work/x": ENTRY}, {"a": ENTRY, "c": ENTRY}, {"gone": ENTRY}]
    grouped = group_outputs(outputs, pieces)
    assert grouped == [
        {"b": outputs["b"], "a": outputs["a"]},
        {"c": outputs["c"]},
        {"d": outputs["d"]},
    ]
