"""Runs on two levels in one sqlite file: begun by the driver, logged to by id from anywhere, continued by a rerun."""

import multiprocessing
import sqlite3
import sys
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

import xmrank
from xmrank import tracking
from xmrank.metrics import METRICS, mlflow_name
from xmrank.tracking import runs


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    """Nothing of the caller's environment decides where these tests log."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RAY_JOB_SUBMISSION_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder that the default tracking file is in; with a space, as users' folders have."""
    folder = tmp_path_factory.mktemp("home") / "my runs"
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        environment.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        tracking.connect(folder)
    return folder


@pytest.fixture
def uri(home):
    return tracking.connect(home)


def read(uri, run):
    """A run as the server has it."""
    return MlflowClient(uri).get_run(run)


def test_the_default_is_one_sqlite_file_at_home(home, uri):
    assert uri == f"sqlite:///{home}/mlflow.db"
    assert (home / "mlflow.db").is_file()
    experiment = MlflowClient(uri).get_experiment_by_name("xmrank")
    assert experiment.artifact_location == (home / "mlartifacts").as_uri()


@pytest.mark.parametrize("name", ["a%20b", "q?1 n#ä"])
def test_the_file_is_in_a_home_of_any_name(tmp_path, name):
    folder = tmp_path / name
    uri = tracking.connect(folder)
    run = tracking.begin_run(uri, folder, "one")
    tracking.end_run(uri, run)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "mlflow.db").is_file()
    (tmp_path / "file").write_text("content")
    MlflowClient(uri).log_artifact(run, str(tmp_path / "file"))
    assert [path.read_text() for path in (folder / "mlartifacts").rglob("file")] == ["content"]


def test_a_home_that_cannot_hold_the_file_is_refused_at_once(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    started = time.monotonic()
    with pytest.raises(tracking.TrackingError, match="cannot track runs there: unable to open database file"):
        tracking.connect(tmp_path)
    assert time.monotonic() - started < 5


def test_the_file_is_migrated_once(home):
    before = (home / "mlflow.db").stat().st_mtime_ns
    tracking.connect(home)
    assert (home / "mlflow.db").stat().st_mtime_ns == before
    with sqlite3.connect(home / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


def test_the_environment_names_another_server_and_experiment(home, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    uri = tracking.connect(tmp_path)
    assert uri == f"sqlite:///{home}/mlflow.db"
    assert read(uri, tracking.begin_run(uri, tmp_path, "one")).info.experiment_id == runs.experiment_id(
        MlflowClient(uri), home
    )
    assert not list(tmp_path.iterdir())


def test_a_run_has_a_name_a_parent_tags_flat_params_and_inputs(home, uri):
    parent = tracking.begin_run(uri, home, "sweep")
    params = {"epochs": 2, "ranker": {"width": 64, "features": ["concat"]}, "long": "x" * 7000}
    run = tracking.begin_run(
        uri, home, "trial", parent=parent, tags={"loss": "listnet"}, params=params, inputs={"lists": "0123456789" * 6}
    )
    data = read(uri, run)
    assert data.info.run_name == "trial"
    assert data.info.status == "RUNNING"
    assert data.data.tags["mlflow.parentRunId"] == parent
    assert data.data.tags["loss"] == "listnet"
    assert data.data.params == {
        "epochs": "2",
        "ranker.width": "64",
        "ranker.features": "['concat']",
        "long": "x" * 6000,
    }
    (dataset,) = data.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("lists", ("0123456789" * 6)[:36])


def test_metrics_go_in_at_once_and_keep_their_history(home, uri):
    run = tracking.begin_run(uri, home, "trial")
    for step, value in enumerate((0.5, 0.75), start=1):
        tracking.log_metrics(uri, run, {"train/loss": value, "validation/mean": value / 2}, step=step)
    history = MlflowClient(uri).get_metric_history(run, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.75)]
    assert read(uri, run).data.metrics == {"train/loss": 0.75, "validation/mean": 0.375}


def test_every_metric_has_a_name_that_mlflow_takes(home, uri):
    run = tracking.begin_run(uri, home, "trial")
    names = [f"i2t/{address}{mlflow_name(name)}" for name in METRICS for address in ("", "gallery/", "top-100/")]
    tracking.log_metrics(uri, run, dict.fromkeys(names, 0.5))
    assert set(read(uri, run).data.metrics) == set(names)
    with pytest.raises(MlflowException):
        tracking.log_metrics(uri, run, {"i2t/hit@1": 0.5})


def test_a_run_ends_finished_or_failed(home, uri):
    run = tracking.begin_run(uri, home, "trial")
    assert tracking.read_status(uri, run) == "RUNNING"
    tracking.end_run(uri, run, failed=True)
    assert tracking.read_status(uri, run) == "FAILED"
    tracking.end_run(uri, run)
    assert tracking.read_status(uri, run) == "FINISHED"


def test_a_run_is_continued(home, uri):
    run = tracking.begin_run(uri, home, "trial", params={"epochs": 2})
    tracking.end_run(uri, run, failed=True)
    assert tracking.begin_run(uri, home, "trial", resume=run, params={"epochs": 2}) == run
    assert tracking.read_status(uri, run) == "RUNNING"


def test_a_run_that_was_deleted_is_begun_anew(home, uri):
    gone = tracking.begin_run(uri, home, "trial")
    MlflowClient(uri).delete_run(gone)
    assert tracking.read_status(uri, gone) is None
    assert tracking.read_status(uri, "0" * 32) is None
    again = tracking.begin_run(uri, home, "trial", resume=gone)
    assert again != gone
    assert tracking.read_status(uri, again) == "RUNNING"


def test_a_call_that_was_killed_while_it_began_a_run_leaves_one_run(home, uri):
    begin = {"params": {"epochs": 2}, "inputs": {"lists": "abc"}}
    half = tracking.begin_run(uri, home, "trial", resume="later-1")  # killed before its parameters were there
    assert tracking.begin_run(uri, home, "trial", resume="later-1", **begin) == half
    assert tracking.begin_run(uri, home, "trial", resume="later-1", **begin) == half
    run = read(uri, half)
    assert run.data.params == {"epochs": "2"}
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["lists"]
    assert tracking.begin_run(uri, home, "trial", resume="later-2") != half


def test_tags_and_artefacts_are_added(home, uri, tmp_path):
    run = tracking.begin_run(uri, home, "trial")
    (tmp_path / "history.json").write_text("{}")
    tracking.set_tags(uri, run, {"note": "kept"})
    tracking.log_artifacts(uri, run, tmp_path / "history.json")
    assert read(uri, run).data.tags["note"] == "kept"
    assert [file.path for file in MlflowClient(uri).list_artifacts(run)] == ["history.json"]
    assert list((home / "mlartifacts").rglob("history.json"))


def log_twenty(uri, run):
    """What the other process does."""
    for step in range(20):
        tracking.log_metrics(uri, run, {"train/loss": step / 20, "train/hit_at_1": 0.5}, step=step)


def test_two_processes_log_at_once(home, uri):
    own, others = (tracking.begin_run(uri, home, name) for name in ("trial 0", "trial 1"))
    other = multiprocessing.get_context("spawn").Process(target=log_twenty, args=(uri, others))
    other.start()
    logged = 0
    while other.is_alive():
        tracking.log_metrics(uri, own, {"train/loss": 0.5, "train/hit_at_1": 0.5}, step=logged)
        logged += 1
        time.sleep(0.01)  # a trial has some work between two epochs too
    assert other.exitcode == 0
    for run, steps in ((own, logged), (others, 20)):
        history = MlflowClient(uri).get_metric_history(run, "train/loss")
        assert sorted(metric.step for metric in history) == list(range(steps))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "sqlite:////proc/nowhere/mlflow.db"])
def test_a_server_that_is_not_there_is_one_line_at_once(tmp_path, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    started = time.monotonic()
    with pytest.raises(tracking.TrackingError, match=f"{address}: cannot track runs there: ") as failure:
        tracking.connect(tmp_path)
    assert time.monotonic() - started < 30  # MLflow alone retries for four minutes
    assert "\n" not in str(failure.value)


def test_credentials_of_a_server_are_not_in_the_message(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:SECRET@127.0.0.1:9")
    with pytest.raises(tracking.TrackingError) as failure:
        tracking.connect(tmp_path)
    assert str(failure.value).startswith("http://***@127.0.0.1:9: cannot track runs there: ")
    assert "SECRET" not in repr(failure.value)


def test_parameters_are_logged_without_credentials(uri, home):
    run = tracking.begin_run(uri, home, "sweep", params={"images": "s3://key:SECRET@bucket/images"})
    assert MlflowClient(uri).get_run(run).data.params == {"images": "s3://***@bucket/images"}


def test_patience_is_only_short_for_the_first_call_and_the_users_own_counts(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    with runs.default_environment(runs.FIRST_CALL):
        assert runs.os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
        assert runs.os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in runs.os.environ
    assert runs.os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"


@pytest.mark.parametrize(("changes", "dirty"), [("", "false"), (" M file.py", "true")])
def test_a_run_says_which_code_it_came_from(monkeypatch, changes, dirty):
    monkeypatch.setattr(runs, "run_git", lambda command, *rest: "abc123" if command == "rev-parse" else changes)
    monkeypatch.setenv("RAY_JOB_SUBMISSION_ID", "raysubmit_1")
    expected = {"git_sha": "abc123", "git_dirty": dirty, "ray_submission_id": "raysubmit_1"}
    expected |= {"mlflow.source.git.commit": "abc123", "mlflow.source.type": "JOB"}
    assert expected.items() <= tracking.origin_tags().items()


def test_code_outside_of_a_repository_has_no_commit(monkeypatch):
    monkeypatch.setattr(runs, "run_git", lambda *arguments: None)
    assert not {"git_sha", "git_dirty", "mlflow.source.git.commit"} & tracking.origin_tags().keys()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert runs.run_git("status") is None


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/opt/bin/xmrank", "train", "--output", "s3://key@bucket"], "xmrank train"),
        (["/site-packages/xmrank/__main__.py", "mine"], "xmrank mine"),
        (["jobs/train.py", "--epochs", "3"], "train.py"),
        ([""], "python"),
    ],
)
def test_a_runs_source_is_its_command_without_arguments(words, name, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    tags = runs.origin_tags()
    assert tags["mlflow.source.name"] == name and tags["xmrank_version"] == xmrank.__version__
    assert tags.get("mlflow.source.git.commit") == tags.get("git_sha")
