"""A stage's runs: a parent of its own or a given one, children by key, ids on disk, nothing left running."""

import json
import pickle
import shutil

import pytest
from mlflow.tracking import MlflowClient

from xmrank import tracking
from xmrank.runtime.errors import DataError
from xmrank.tracking import run_tree, runs
from xmrank.tracking.delivery import list_journals
from xmrank.tracking.run_tree import RunTree, read_run_ids
from xmrank.tracking.sending import Delivery


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_tracking):
    """A folder with a tracking file."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(empty_tracking, folder)
    return folder


@pytest.fixture(autouse=True)
def tracked(home, monkeypatch):
    """Runs of these tests are tracked there."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XMRANK_HOME", str(home))


@pytest.fixture
def tree(tmp_path):
    return RunTree(
        tmp_path / "fits",
        "baselines",
        tags={"encoder": "toy"},
        params={"epochs": 3},
        inputs={"lists": "abc", "embeddings": "def"},
    )


def read_run(tree, key):
    """A run as the server has it, when everything is delivered."""
    Delivery(tree.uri).deliver_all(list_journals(tree.journals))
    return runs.find_run(MlflowClient(tree.uri), tree.journals, tree.ids[key])


def read_statuses(tree):
    """Key → status of every run."""
    return {key: read_run(tree, key).info.status for key in tree.ids}


def test_a_tree_that_begins_nothing_touches_no_server_and_no_file(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(run_tree, "connect_tracking", lambda: pytest.fail("nothing was to be logged"))
    assert not tree.is_begun
    tree.end(failed=True)
    assert not (tmp_path / "fits").exists()


def test_the_parent_is_begun_with_the_first_child_and_all_share_stage_tags_and_inputs(tree):
    tree.begin_child("vsepp-seed0", tags={"loss": "vsepp"}, params={"margin": 0.2}, inputs=["lists"])
    parent, child = read_run(tree, "parent"), read_run(tree, "vsepp-seed0")
    assert (parent.info.run_name, child.info.run_name) == ("baselines fits", "vsepp-seed0")
    assert (parent.data.params, child.data.params) == ({"epochs": "3"}, {"margin": "0.2"})
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["loss"] == "vsepp"
    for run in (parent, child):
        assert {"stage": "baselines", "encoder": "toy"}.items() <= run.data.tags.items()
        assert tracking.origin_tags().items() <= run.data.tags.items()
    names = [{entry.dataset.name for entry in run.inputs.dataset_inputs} for run in (parent, child)]
    assert names == [{"lists", "embeddings"}, {"lists"}]


def test_a_rerun_continues_the_runs_whose_ids_are_on_disk(tree, tmp_path):
    tree.begin_child("one")
    tree.end(failed=True)
    again = RunTree(tmp_path / "fits", "baselines")
    assert not again.is_begun
    again.begin_child("one")
    again.begin_child("two")
    assert again.ids.items() >= tree.ids.items()
    assert read_statuses(again) == dict.fromkeys(("parent", "one", "two"), "RUNNING")
    assert read_run_ids(tmp_path / "fits") == again.ids
    assert again.begin_parent() == tree.ids["parent"]


def test_children_that_nothing_ended_end_by_whether_their_work_was_done(tree):
    for key in ("ended", "done", "lost"):
        tree.begin_child(key)
    tree.end_child("ended", failed=True)
    tree.journals.mkdir(exist_ok=True)
    history = tree.journals / "history.json"
    history.write_text("{}")
    tree.end(failed=True, is_done=lambda key: key == "done", files_of=lambda key: [history])
    expected = {"parent": "FAILED", "ended": "FAILED", "done": "FINISHED", "lost": "FAILED"}
    assert read_statuses(tree) == expected
    files = {key: MlflowClient(tree.uri).list_artifacts(tree.ids[key]) for key in ("ended", "done", "lost")}
    assert {key: [file.path for file in own] for key, own in files.items()} == {
        "ended": [], "done": ["history.json"], "lost": [],
    }  # fmt: skip


@pytest.mark.parametrize(("failed", "status"), [(True, "FAILED"), (False, "FINISHED")])
def test_without_a_rule_children_end_as_the_parent_does(tree, failed, status):
    tree.begin_child("one")
    tree.end(failed=failed)
    assert read_statuses(tree) == {"parent": status, "one": status}


def test_a_given_parent_is_begun_when_needed_and_left_running(tmp_path):
    experiment = RunTree(tmp_path, "experiment")
    training = RunTree(tmp_path / "rankers", "train", parent=experiment.begin_parent)
    assert not experiment.is_begun
    training.begin_child("listnet")
    training.end(failed=False)
    assert training.ids["parent"] == experiment.ids["parent"]
    assert read_statuses(training) == {"parent": "RUNNING", "listnet": "FINISHED"}
    assert read_run(training, "parent").info.run_name == f"experiment {tmp_path.name}"


def test_a_branch_works_in_another_process_and_leaves_the_parent_alone(tree, tmp_path):
    branch = pickle.loads(pickle.dumps(tree.branch_off(tmp_path / "points/one")))  # noqa: S301 - its own bytes
    branch.begin_child("one")
    branch.log_metrics("one", {"validation/mean": 0.5}, step=2)
    branch.end(failed=False)
    assert read_statuses(branch) == {"one": "FINISHED"}
    child = read_run(branch, "one")
    assert child.data.tags["mlflow.parentRunId"] == tree.ids["parent"]
    assert {"stage": "baselines", "encoder": "toy"}.items() <= child.data.tags.items()
    (metric,) = MlflowClient(tree.uri).get_metric_history(child.info.run_id, "validation/mean")
    assert (metric.step, metric.value) == (2, 0.5)
    assert tree.is_open("parent")
    assert not tree.is_open("one")  # the branch keeps its ids to itself


def test_notes_are_kept_beside_the_ids(tree, tmp_path):
    tree.begin_parent()
    tree.keep_note("reported", "abc")
    again = RunTree(tmp_path / "fits", "baselines")
    assert again.notes == {"reported": "abc"}
    assert again.ids == read_run_ids(tmp_path / "fits") == {"parent": tree.ids["parent"]}
    assert json.loads((tmp_path / "fits/tracking.json").read_text())["notes"] == {"reported": "abc"}


def test_a_tracking_server_that_cannot_be_used_is_one_error(tree, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/nowhere/mlflow.db")
    with pytest.raises(DataError, match="cannot track runs there"):
        tree.begin_parent()
    assert not tree.is_begun


@pytest.mark.parametrize("text", ["{", "[]", '{"parent": 1}', '{"notes": []}', '{"notes": {"a": null}}', "[" * 5000])
def test_damaged_run_ids_are_one_line(text, tmp_path):
    (tmp_path / "tracking.json").write_text(text)
    for read in (read_run_ids, lambda folder: RunTree(folder, "train")):
        with pytest.raises(DataError, match=r"tracking.json: damaged"):
            read(tmp_path)
