"""A stage's directory: skipped when done, resumed when not, refused when it is another's."""

import json
import os

import pytest
from changed_stages import flip_byte

from xmrank.runtime import directory as stages
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_text
from xmrank.runtime.manifest import read_manifest

CONFIG = {"seed": 0, "negatives": 50}
INPUTS = {"embeddings": "e0"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "lists"


def opened(folder, config=CONFIG, inputs=INPUTS, name="mine", **flags):
    return StageDirectory.open(folder, name, config=config, inputs=inputs, **flags)


def finished(folder, files=("a.txt", "b.txt"), **parameters):
    """A finished stage whose files hold their names."""
    stage = opened(folder, **parameters)
    for name in files:
        write_text(folder / name, name)
    return stage.finish(counts={"files": len(files)}, settings={"threads": 1})


def refusal(folder, **parameters):
    with pytest.raises(DataError) as caught:
        opened(folder, **parameters)
    return str(caught.value)


def names(folder):
    """All files but the lock of a stage that is open."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "run.lock")


def test_a_new_directory_is_planned(folder):
    stage = opened(folder)
    assert stage.done is None
    assert names(folder) == ["plan.json"]
    plan = json.loads((folder / "plan.json").read_text())
    assert (plan["stage"], plan["config"], plan["inputs"]) == ("mine", CONFIG, INPUTS)


def test_a_finished_stage_is_skipped(folder):
    manifest = finished(folder)
    assert opened(folder).done == manifest == read_manifest(folder, "mine")


def test_the_manifest_says_what_was_made(folder):
    stage = opened(folder)
    write_text(folder / "sub" / "a.txt", "hello")
    (stage.work / "part").write_text("scratch")
    manifest = stage.finish(counts={"lists": 3}, left_out=[{"image_id": "i", "reason": "broken"}])
    hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # sha256 of "hello"
    assert manifest.outputs == {"sub/a.txt": {"bytes": 5, "sha256": hello}}
    assert (manifest.counts, manifest.left_out[0]["image_id"]) == ({"lists": 3}, "i")
    assert names(folder) == ["manifest.json", "plan.json", "sub", "sub/a.txt"]


def test_the_fingerprint_does_not_depend_on_the_place(tmp_path):
    one, other = finished(tmp_path / "one"), finished(tmp_path / "deep" / "other")
    assert one.fingerprint == other.fingerprint
    assert len(one.fingerprint) == 64


def test_the_fingerprint_ignores_counts_and_settings(tmp_path):
    fingerprints = set()
    for threads in (1, 2):
        stage = opened(tmp_path / str(threads))
        write_text(stage.directory / "a.txt", "a")
        fingerprints.add(stage.finish(counts={"n": threads}, settings={"threads": threads}).fingerprint)
    assert len(fingerprints) == 1


def test_the_fingerprint_depends_on_configuration_inputs_and_contents(tmp_path):
    variants = [
        finished(tmp_path / "0"),
        finished(tmp_path / "1", config={**CONFIG, "seed": 1}),
        finished(tmp_path / "2", inputs={"embeddings": "e1"}),
        finished(tmp_path / "3", name="train"),
        finished(tmp_path / "4", files=("a.txt",)),
        finished(tmp_path / "5", files=("a.txt", "c.txt")),
    ]
    assert len({manifest.fingerprint for manifest in variants}) == len(variants)
    stage = opened(tmp_path / "6")
    for name in ("a.txt", "b.txt"):
        write_text(stage.directory / name, "other words")
    assert stage.finish(counts={}).fingerprint != variants[0].fingerprint


def test_an_interrupted_stage_is_resumed(folder):
    stage = opened(folder)
    write_text(folder / "a.txt", "a.txt")
    write_text(stage.work / "part", "half")
    resumed = opened(folder)
    assert resumed.done is None
    assert names(folder) == ["a.txt", "plan.json", "work", "work/part"]
    write_text(folder / "b.txt", "b.txt")
    assert resumed.finish(counts={}).fingerprint == finished(folder.parent / "undisturbed").fingerprint


def test_a_stage_that_is_killed_while_it_finishes_keeps_its_work(folder, monkeypatch):
    stage = opened(folder)
    write_text(stage.work / "part", "costly")

    def killed(path, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stages, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            stage.finish(counts={})
    assert (opened(folder).work / "part").read_text() == "costly"


def test_work_that_a_finished_stage_left_behind_goes(folder):
    finished(folder)
    (folder / "work").mkdir()
    (folder / "work" / "part").write_text("killed just before this was removed")
    assert opened(folder).done
    assert not (folder / "work").exists()


def test_files_of_a_killed_writer_are_swept(folder):
    stage = opened(folder)
    (folder / ".tmp-0123abcd-a.txt").write_text("half")
    (stage.work / ".tmp-0123abcd-part").write_text("half")
    opened(folder)
    assert names(folder) == ["plan.json", "work"]


def test_a_folder_with_nothing_but_a_killed_plan_is_planned(folder):
    folder.mkdir()
    (folder / ".tmp-0123abcd-plan.json").write_text("{")
    opened(folder)
    assert names(folder) == ["plan.json"]


def test_another_configuration_is_refused_with_the_difference(folder):
    finished(folder)
    message = refusal(folder, config={**CONFIG, "negatives": 20})
    assert message == (
        f"{folder}: holds another configuration: negatives is 50 there, 20 here (--overwrite to redo it, or another "
        "--output)"
    )
    assert "negatives is 50 there, null here" in refusal(folder, config={"seed": 0})
    assert "depth is null there, 2 here" in refusal(folder, config={**CONFIG, "depth": 2})


def test_other_inputs_are_refused_by_name(folder):
    finished(folder)
    assert "was made from other embeddings: e0 there, e1 here" in refusal(folder, inputs={"embeddings": "e1"})


def test_a_half_done_stage_of_another_configuration_is_refused(folder):
    write_text(opened(folder).work / "part", "half")
    assert "seed is 0 there, 1 here" in refusal(folder, config={**CONFIG, "seed": 1})


def test_a_run_that_made_nothing_binds_nobody(folder):
    opened(folder, config={"model": "misspelt"})
    assert opened(folder).done is None
    finished(folder)
    assert read_manifest(folder, "mine").config == CONFIG


def test_tuples_and_lists_are_the_same_configuration(folder):
    finished(folder, config={"seeds": (0, 1)})
    assert opened(folder, config={"seeds": [0, 1]}).done


def test_overwrite_redoes_whatever_this_stage_made(folder):
    finished(folder, config={"seed": 9})
    stage = opened(folder, overwrite=True)
    assert stage.done is None
    assert names(folder) == ["plan.json"]
    assert json.loads((folder / "plan.json").read_text())["config"] == CONFIG
    finished(folder)
    assert opened(folder, overwrite=True).done is None  # also where nothing differs


def test_overwrite_empties_what_a_link_leads_to(folder, tmp_path):
    (tmp_path / "disk").mkdir()
    folder.symlink_to(tmp_path / "disk")
    finished(folder)
    assert opened(folder, overwrite=True).done is None
    assert names(tmp_path / "disk") == ["plan.json"]


def test_overwrite_that_is_interrupted_can_be_repeated(folder, monkeypatch):
    finished(folder, files=("a.txt", "sub/b.txt"))

    def killed(path, errors):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stages, "remove_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(folder, overwrite=True)
    assert {"plan.json", "sub/b.txt"} <= set(names(folder))  # still a stage's, and not a finished one's
    assert not (folder / "manifest.json").exists()
    assert opened(folder, overwrite=True).done is None
    assert names(folder) == ["plan.json"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_strangers_folder_is_never_touched(folder, overwrite):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    assert "is not empty and not the directory of a stage" in refusal(folder, overwrite=overwrite)
    assert names(folder) == ["thesis.tex"]


@pytest.mark.parametrize("plan", ['{"tasks": ["write"]}', "not JSON", "[]"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_plan_of_another_program_is_ignored(folder, plan, overwrite):
    folder.mkdir()
    (folder / "plan.json").write_text(plan)
    assert "not the directory of a stage" in refusal(folder, overwrite=overwrite)
    assert (folder / "plan.json").read_text() == plan


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_directory_of_another_stage_is_never_touched(folder, overwrite):
    finished(folder, name="embed")
    assert "holds the output of the stage embed, not of mine" in refusal(folder, overwrite=overwrite)
    assert read_manifest(folder, "embed").counts == {"files": 2}


def test_a_file_in_the_place_of_the_directory_is_refused(folder):
    folder.write_text("not a folder")
    assert "expected a directory" in refusal(folder)


def test_a_manifest_that_lies_is_redone(folder):
    before = finished(folder, files=("a.txt", "b.txt", "c.txt"))
    (folder / "a.txt").unlink()
    (folder / "c.txt").write_text("c.")
    stage = opened(folder)
    assert stage.done is None
    # What is complete stays, and nothing is deleted because a manifest names it.
    assert names(folder) == ["b.txt", "damaged", "damaged/c.txt", "plan.json"]
    assert finished(folder, files=("a.txt", "c.txt")).fingerprint == before.fingerprint


def test_a_plan_of_another_schema_is_refused(folder):
    finished(folder)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "schema": 3}))
    assert "has schema 3, expected 2" in refusal(folder)


def test_outputs_that_are_damaged_again_are_all_kept(folder):
    for text in ("1", "22"):
        finished(folder)
        (folder / "a.txt").write_text(text)
        assert opened(folder).done is None
    kept = {path.name: path.read_text() for path in (folder / "damaged").iterdir()}
    assert kept == {"a.txt": "1", "a.txt-again": "22"}


def test_a_link_as_the_folder_of_damaged_files_is_not_followed(folder, tmp_path):
    finished(folder)
    (folder / "a.txt").write_text("1")
    (tmp_path / "elsewhere").mkdir()
    (folder / "damaged").symlink_to(tmp_path / "elsewhere")
    message = refusal(folder)
    assert message.startswith(
        f"{folder / 'damaged/a.txt'}: is outside the directory, through a symbolic link; a.txt is "
    )
    assert names(tmp_path / "elsewhere") == [] and (folder / "a.txt").read_text() == "1"


@pytest.mark.parametrize("plan", [{"config": None}, {"inputs": 3}, {"config": []}])
def test_a_plan_with_values_of_other_types_is_ignored(folder, plan):
    finished(folder)
    written = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**written, **plan}))
    assert "not the directory of a stage" in refusal(folder)


def test_a_finished_stage_with_a_changed_byte_makes_that_file_anew(folder, capsys):
    before = finished(folder)
    flip_byte(folder / "a.txt", 0)
    assert opened(folder).done is None
    assert capsys.readouterr().err == (
        f"mine: {folder / 'a.txt'}: damaged: its contents are not those in manifest.json; moved to damaged/\n"
    )
    assert names(folder) == ["b.txt", "damaged", "damaged/a.txt", "plan.json"]
    assert finished(folder).fingerprint == before.fingerprint


def test_a_plan_that_was_replaced_does_not_hide_another_configuration(folder):
    finished(folder)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "config": {**CONFIG, "seed": 1}, "inputs": {}}))
    assert "seed is 0 there, 1 here" in refusal(folder, config={**CONFIG, "seed": 1}, inputs={})
    (folder / "plan.json").write_text(json.dumps({**plan, "inputs": {"embeddings": "e1"}}))
    assert "was made from other embeddings: e0 there, e1 here" in refusal(folder, inputs={"embeddings": "e1"})


def test_a_pipe_as_the_plan_is_not_waited_for(folder):
    finished(folder)
    (folder / "plan.json").unlink()
    os.mkfifo(folder / "plan.json")
    assert "not the directory of a stage" in refusal(folder)
