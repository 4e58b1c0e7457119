"""Journals: nothing that was added is lost, nothing is stored twice, and nobody waits for a server."""

import json
import socket
import time

import pytest
from mlflow.tracking import MlflowClient

from xmrank import tracking
from xmrank.runtime.errors import DataError
from xmrank.tracking import journal as journals
from xmrank.tracking.journal import Journal, deliver_in_background, deliver_journals, sync

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def home(tmp_path, track_at):
    track_at(tmp_path)
    return tmp_path


@pytest.fixture
def uri(home):
    return tracking.connect(home)


def history(uri, run, name="train/loss"):
    return [(metric.step, metric.value) for metric in MlflowClient(uri).get_metric_history(run, name)]


def test_records_reach_their_run_in_the_background(home, uri):
    run, journal = tracking.begin_run(uri, home, "trial"), Journal(home, "trial")
    (home / "history.json").write_text("{}")
    with deliver_in_background(uri, [journal]):
        for step in range(1, 4):
            journal.add(run, metrics={"train/loss": step / 4}, step=step)
        journal.add(run, artifacts=[home / "history.json", home / "gone.json"], tags={"kept": "true"}, failed=False)
    assert journal.is_delivered
    assert history(uri, run) == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert [file.path for file in MlflowClient(uri).list_artifacts(run)] == ["history.json"]
    assert tracking.read_status(uri, run) == "FINISHED"
    assert MlflowClient(uri).get_run(run).data.tags["kept"] == "true"


def test_a_record_that_is_sent_twice_is_stored_once(home, uri, monkeypatch):
    monkeypatch.setattr(journals, "BATCH", 2)
    run, journal = tracking.begin_run(uri, home, "trial"), Journal(home, "trial")
    for step in range(5):
        journal.add(run, metrics={"train/loss": 0.5}, step=step)
    journal.deliver(uri)
    journal.mark.unlink()  # a process that was killed before it noted the delivery
    journal.deliver(uri)
    assert [step for step, _ in history(uri, run)] == [0, 1, 2, 3, 4]


def test_a_record_that_a_kill_cut_off_costs_no_other(home, uri):
    run, journal = tracking.begin_run(uri, home, "trial"), Journal(home, "trial")
    journal.add(run, metrics={"train/loss": 0.5}, step=1)
    with journal.path.open("ab") as file:
        file.write(b'{"run": "half')
    journal.deliver(uri)
    assert history(uri, run) == [(1, 0.5)]
    journal.add(run, metrics={"train/loss": 0.25}, step=2)
    journal.deliver(uri)
    assert history(uri, run) == [(1, 0.5), (2, 0.25)]


def test_a_run_that_was_deleted_does_not_hold_up_the_others(home, uri):
    gone, run = (tracking.begin_run(uri, home, name) for name in ("gone", "kept"))
    journal = Journal(home, "trial")
    journal.add("0" * 32, metrics={"train/loss": 0.5})
    journal.add(gone, failed=True)
    MlflowClient(uri).delete_run(gone)
    journal.add(run, metrics={"train/loss": 0.5})
    journal.deliver(uri)
    assert journal.is_delivered
    assert history(uri, run) == [(0, 0.5)]


def test_a_server_that_never_answers_keeps_nobody_waiting(home, uri, monkeypatch):
    monkeypatch.setattr(journals, "GRACE_S", 0.2)
    monkeypatch.setattr(journals, "PERIOD_S", 0.01)
    run, journal = tracking.begin_run(uri, home, "trial"), Journal(home, "trial")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with deliver_in_background(f"http://127.0.0.1:{silent.getsockname()[1]}", [journal]):
            for step in range(100):
                journal.add(run, metrics={"train/loss": 0.5}, step=step)
                time.sleep(0.001)
        assert time.monotonic() - started < 5
    assert not journal.is_delivered
    assert history(uri, run) == []
    journal.deliver(uri)
    assert len(history(uri, run)) == 100


def test_a_server_that_is_away_is_one_line_and_sync_delivers_the_rest(home, uri, capsys, caplog):
    run = tracking.begin_run(uri, home, "trial")
    for step, key in enumerate(("one", "two")):
        Journal(home / "stage", key).add(run, metrics={"train/loss": 0.5}, step=step)
    assert not deliver_journals(home / "stage", AWAY)
    error = capsys.readouterr().err
    assert error.startswith(f"MLflow: {AWAY}: Connection refused; what is not logged is kept in {home}/stage/journal")
    assert error.endswith(f"xmrank sync {home}/stage\n")
    assert error.count("\n") == 1
    assert not caplog.records
    assert sync(home)
    assert history(uri, run) == [(0, 0.5), (1, 0.5)]
    # Of a finished stage nothing is left; there is nothing to connect for either.
    (home / "stage/manifest.json").write_text(json.dumps({}))
    assert deliver_journals(home / "stage", AWAY)
    assert not (home / "stage/journal").exists()


def test_sync_of_no_directory_is_one_line(home):
    with pytest.raises(DataError, match="elsewhere: no such directory"):
        sync(home / "elsewhere")
