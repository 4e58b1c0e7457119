"""The delivery of journals: nothing is lost, nothing is stored twice, and nobody waits for a server."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow.tracking import MlflowClient

from xmrank import tracking
from xmrank.runtime.errors import DataError
from xmrank.tracking import delivery, runs, sending
from xmrank.tracking.delivery import DeliverySession, deliver_journals, deliver_while_open, sync
from xmrank.tracking.journal import Journal
from xmrank.tracking.run_tree import RunTree
from xmrank.tracking.sending import Delivery

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def home(tmp_path, track_at):
    track_at(tmp_path)
    return tmp_path


@pytest.fixture
def uri(home):
    return tracking.connect(home)


@pytest.fixture
def silent(monkeypatch):
    """A server that takes connections and never answers; the end of a job waits 0.2 s for it."""
    monkeypatch.setattr(delivery, "GRACE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Answers(BaseHTTPRequestHandler):
    """Answers each request as a server that has one run, after the server's ``delay``."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Write nothing."""

    def do_POST(self):
        """Answer."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        time.sleep(self.server.delay)
        info = {"run_id": "r" * 32, "experiment_id": "1", "lifecycle_stage": "active"}
        answer = json.dumps({"run": {"info": info, "data": {}}, "run_info": info}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST  # noqa: N815 (the name that http.server looks for)


@pytest.fixture
def answering():
    """A server that answers everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.delay = 0.0
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def history(uri, run, name="train/loss"):
    return [(metric.step, metric.value) for metric in MlflowClient(uri).get_metric_history(run, name)]


def all_runs(uri):
    """Name → run."""
    runs = MlflowClient(uri).search_runs(["1"])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}


def test_records_reach_their_run_in_the_background(home, uri):
    run, journal = tracking.begin_run(uri, home, "trial"), Journal(home, "trial")
    (home / "history.json").write_text("{}")
    with deliver_while_open(home):
        DeliverySession.open.start(uri)
        for step in range(1, 4):
            journal.add(run, metrics={"train/loss": step / 4}, step=step)
        journal.add(run, artifacts=[home / "history.json", home / "gone.json"], tags={"kept": "true"}, failed=False)
    assert not journal.path.exists()  # of a stage that is done and has delivered everything, nothing is left
    assert history(uri, run) == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert [file.path for file in MlflowClient(uri).list_artifacts(run)] == ["history.json"]
    assert tracking.read_status(uri, run) == "FINISHED"
    assert MlflowClient(uri).get_run(run).data.tags["kept"] == "true"


def test_a_record_that_is_sent_twice_is_stored_once(home, uri, monkeypatch):
    monkeypatch.setattr(sending, "BATCH", 2)
    run, journal = tracking.begin_run(uri, home, "trial"), Journal(home, "trial")
    for step in range(5):
        journal.add(run, metrics={"train/loss": 0.5}, step=step)
    Delivery(uri).deliver(journal)
    journal.mark.unlink()  # a process that was killed before it noted the delivery
    Delivery(uri).deliver(journal)
    assert [step for step, _ in history(uri, run)] == [0, 1, 2, 3, 4]


def test_a_run_that_was_deleted_does_not_hold_up_the_others(home, uri):
    gone, run = (tracking.begin_run(uri, home, name) for name in ("gone", "kept"))
    journal = Journal(home, "trial")
    journal.add("0" * 32, metrics={"train/loss": 0.5})
    journal.add(gone, failed=True)
    MlflowClient(uri).delete_run(gone)
    journal.add(run, metrics={"train/loss": 0.5})
    Delivery(uri).deliver(journal)
    assert journal.is_delivered
    assert history(uri, run) == [(0, 0.5)]


def test_the_end_of_a_run_prints_no_address(home, answering, capsys):
    uri = f"http://user:SECRET@127.0.0.1:{answering.server_port}"
    journal = Journal(home, "trial")
    journal.add("r" * 32, failed=False)
    Delivery(uri).deliver(journal)
    tracking.end_run(uri, "r" * 32)
    assert journal.is_delivered
    assert capsys.readouterr() == ("", "")


def test_what_no_server_takes_is_named_and_costs_nothing_beside_it(home, uri, capsys):
    folder, run = home / "stage", "later-1"
    records = [
        {"begin": {"params": {"a/../b": "1"}, "tags": 5}},  # no name, and a parameter's name that MLflow refuses
        {"step": 0, "metrics": {"bad@name": 1, "good": 2, "text": "x"}},
        {"step": 10**30, "metrics": {"late": 1}},
        {"step": 1, "metrics": {"good": 3}, "tags": {"": "x", "kept": "true"}, "status": "NOPE"},
        {"status": "FINISHED"},
    ]
    journal = Journal(folder, "parent")
    journal.create()
    odd = [{"run": "x' OR '1'='1", "time": 1, "step": 0, "metrics": {"good": 9}}]
    lines = [json.dumps(record) for record in odd + [{"run": run, "time": 1} | record for record in records]]
    journal.path.write_text("\n".join(lines) + "\n")
    assert sync(folder)
    found = all_runs(uri)["unnamed"]
    assert (found.info.status, found.data.metrics, found.data.tags["kept"]) == ("FINISHED", {"good": 3}, "true")
    assert history(uri, found.info.run_id, "good") == [(0, 2), (1, 3)]
    error = capsys.readouterr().err
    assert error == f"MLflow: {journal.path}: left out 9, first run \"x' OR '1'='1\": expected an id\n"


def test_only_files_of_the_stage_become_artefacts(home, uri, capsys):
    folder, secret = home / "stage", home / "id_rsa"
    secret.write_text("key")
    run, journal = tracking.begin_run(uri, home, "trial"), Journal(folder, "parent")
    journal.create()
    (folder / "link").symlink_to(secret)
    (folder / "folder").mkdir()
    (folder / "folder/link").symlink_to(secret)
    (folder / "own.json").write_text("{}")
    journal.add(run, artifacts=[secret, folder / "link", folder / "folder", folder / "own.json", folder / "../id_rsa"])
    assert sync(home)
    assert [file.path for file in MlflowClient(uri).list_artifacts(run)] == ["own.json"]
    assert capsys.readouterr().err == f"MLflow: {journal.path}: left out 3, first artefact {secret}: not in {folder}\n"


def test_the_end_does_not_wait_for_a_server_that_answers_slowly(home, answering, capsys, monkeypatch):
    monkeypatch.setattr(delivery, "LONGEST_END_S", 0.3)
    answering.delay = 0.02
    journal = Journal(home, "trial")
    for step in range(100):
        journal.add("r" * 32, tags={"step": str(step)})
    session = DeliverySession(home)
    session.start(f"http://127.0.0.1:{answering.server_port}")
    session.finish()
    assert not journal.is_delivered  # all of it takes more than two seconds
    assert "answers too slowly; what is not logged is kept" in capsys.readouterr().err
    answering.delay = 0.0


def test_a_reason_is_short_and_whole():
    error = RuntimeError(f"API request failed: {'x' * 300} (Caused by ReadTimeoutError)")
    error.__cause__ = ValueError("read timed out")
    assert runs.describe_error(error) == "read timed out"
    assert runs.describe_error(RuntimeError("several words " * 40)).endswith("several words …")


def log_stage(folder, *, first=0):
    """What a stage logs: a parent, a child of a worker, a child of a stage within it, and a file."""
    runs = RunTree(folder, "tune", inputs={"lists": "abc"})
    with runs.open():
        runs.begin_parent()
        point = runs.branch_off(folder / "search/points/one")
        point.begin_child("one", params={"width": 8}, tags={"loss": "listnet"})
        point.log_history("one", [(step, {"train/loss": step / 4}) for step in range(first, 4)])
        (folder / "history.json").write_text("{}")
        point.log_artifacts("one", folder / "history.json")
        point.end_child("one")
        inner = RunTree(folder / "rankers", "train", parent=runs.begin_parent)
        with inner.open():
            inner.begin_child("two")
            inner.log_metrics("two", {"train/loss": 0.5}, step=1)


def check_stage(uri):
    """All of it is there, once."""
    runs = all_runs(uri)
    assert set(runs) == {"tune stage", "one", "two"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs.pop("tune stage").info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent}
    one = runs["one"]
    assert (one.data.params, one.data.tags["loss"]) == ({"width": "8"}, "listnet")
    assert [entry.dataset.name for entry in one.inputs.dataset_inputs] == ["lists"]
    assert history(uri, one.info.run_id) == [(step, step / 4) for step in range(4)]
    assert [file.path for file in MlflowClient(uri).list_artifacts(one.info.run_id)] == ["history.json"]
    assert history(uri, runs["two"].info.run_id) == [(1, 0.5)]


def test_a_stage_with_a_server_that_answers_leaves_no_journal(home, uri, capsys):
    log_stage(home / "stage")
    check_stage(uri)
    assert capsys.readouterr().err == ""
    assert not list(home.rglob("journal"))


@pytest.mark.parametrize("kind", ["silent", "refused"])
@pytest.mark.parametrize("again", ["sync", "rerun"])
def test_a_server_that_goes_away_is_one_line_and_costs_no_time(home, uri, monkeypatch, capsys, request, kind, again):
    dead = request.getfixturevalue("silent") if kind == "silent" else AWAY
    with monkeypatch.context() as broken:
        broken.setenv("MLFLOW_TRACKING_URI", dead)
        broken.setattr(runs, "CONNECTED", {(dead, str(home), "")})  # it answered when the job began
        broken.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        started = time.monotonic()
        log_stage(home / "stage")
        assert time.monotonic() - started < 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"MLflow: {dead}: ")
    assert error.endswith(f"what is not logged is kept in {home}/stage, to be delivered by the next run or by: xmrank "
                          f"sync {home}/stage\n")  # fmt: skip
    assert not all_runs(uri)
    if again == "sync":
        assert sync(home)
    else:
        log_stage(home / "stage")
    check_stage(uri)
    assert sync(home)  # a second time there is nothing
    check_stage(uri)


def test_a_stage_that_was_killed_is_delivered_once_by_the_next_run(home, uri):
    runs = RunTree(home / "stage", "tune", inputs={"lists": "abc"})
    runs.begin_parent()
    point = runs.branch_off(home / "stage/search/points/one")
    point.begin_child("one", params={"width": 8}, tags={"loss": "listnet"})
    point.log_history("one", [(0, {"train/loss": 0}), (1, {"train/loss": 0.25})])
    Delivery(uri).deliver_all(delivery.list_journals(home / "stage"))
    point.log_history("one", [(2, {"train/loss": 0.5})])  # killed here: nothing ended, one step not delivered
    log_stage(home / "stage", first=1)
    check_stage(uri)


def test_a_child_whose_parent_is_not_made_waits_for_it(home, uri, capsys):
    folder = home / "stage"
    Journal(folder, "parent").add_begin("later-1", {"name": "tune stage"} | dict.fromkeys(("parent", "tags"), None))
    Journal(folder / "rankers", "two").add_begin("later-2", {"name": "two", "parent": "later-1"})
    assert not sync(folder / "rankers")
    assert "a run is not there yet: its journal is in another folder" in capsys.readouterr().err
    assert not all_runs(uri)
    assert sync(folder)
    runs = all_runs(uri)
    assert runs["two"].data.tags["mlflow.parentRunId"] == runs["tune stage"].info.run_id


def test_sync_of_a_server_that_is_away_is_one_line(home, uri, monkeypatch, capsys, caplog):
    run = tracking.begin_run(uri, home, "trial")
    for step, key in enumerate(("one", "two")):
        Journal(home / "stage", key).add(run, metrics={"train/loss": 0.5}, step=step)
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", AWAY)
        assert not sync(home)
    error = capsys.readouterr().err
    assert error.startswith(f"MLflow: {AWAY}: cannot track runs there: Connection refused; what is not logged is kept")
    assert error.count("\n") == 1
    assert not caplog.records
    # Of a finished stage nothing is left; there is nothing to connect for either.
    (home / "stage/manifest.json").write_text(json.dumps({}))
    assert sync(home)
    assert history(uri, run) == [(0, 0.5), (1, 0.5)]
    assert not (home / "stage/journal").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    assert deliver_journals(home / "stage")


def test_sync_of_no_directory_is_one_line(home):
    with pytest.raises(DataError, match="elsewhere: no such directory"):
        sync(home / "elsewhere")
