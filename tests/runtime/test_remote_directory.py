"""Stage directories in an object store: what holds on a disk holds there."""

import json
import threading
import time

import fsspec.asyn
import pytest

from xmrank.runtime import lock
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_text
from xmrank.runtime.paths import resolve
from xmrank.runtime.pieces import record_piece
from xmrank.runtime.remote_path import RemotePath
from xmrank.runtime.storage import list_files
from xmrank.runtime.verification import read_outputs, verify_tree

ELSEWHERE = {
    "host": "other-node",
    "machine": "another boot",
    "pid": 17,
    "started": "1",
    "since": "2026-01-01 00:00:00 UTC",
    "command": "xmrank mine",
    "key": "0123456789abcdef",
}
"""The holder of a lock on a machine whose processes cannot be looked up."""


@pytest.fixture
def folder(bucket):
    return resolve(f"{bucket}/run")


def opened(folder, *, overwrite=False, config=None, inputs=None):
    return StageDirectory.open(
        folder, "write", config=config or {"size": 1}, inputs=inputs or {"data": "aa"}, overwrite=overwrite
    )


def finished(folder, files=("a.txt", "sub/b.txt"), **arguments):
    stage = opened(folder, **arguments)
    for name in files:
        write_text(stage.directory / name, name)
    return stage.finish(counts={"files": len(files)})


def names(folder):
    return [str(path.relative_to(folder)) for path in list_files(folder)]


def test_a_stage_in_a_store_has_the_fingerprint_of_one_on_a_disk(folder, tmp_path):
    there, here = finished(folder), finished(tmp_path / "run")
    assert there.outputs == here.outputs and there.fingerprint == here.fingerprint
    assert names(folder) == ["a.txt", "manifest.json", "plan.json", "sub/b.txt"]
    assert opened(folder).done == there == read_outputs(folder, "write")


def test_the_manifest_is_written_last(folder, object_store):
    stage = opened(folder)
    write_text(stage.directory / "a.txt", "a")
    stage.finish(counts={})
    written = [request for request in object_store.requests if request.startswith("PUT")]
    assert written[-1].endswith("/run/manifest.json")


def test_an_interrupted_stage_is_resumed(folder):
    stage = opened(folder)
    write_text(stage.directory / "a.txt", "a")
    write_text(stage.work / "part.json", "{}")
    lock.release_lock(folder)
    again = opened(folder)
    assert again.done is None and (again.work / "part.json").exists()
    write_text(again.directory / "b.txt", "b")
    assert set(again.finish(counts={}).outputs) == {"a.txt", "b.txt"} and not (folder / "work").exists()


def test_a_difference_is_refused_and_overwritten_on_request(folder):
    finished(folder)
    with pytest.raises(DataError, match=rf"^{folder}: holds another configuration: size is 1 there, 2 here"):
        opened(folder, config={"size": 2})
    stage = opened(folder, config={"size": 2}, overwrite=True)
    assert names(folder) == ["plan.json", "run.lock"] and stage.done is None


def test_a_strangers_folder_is_never_touched(folder):
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="is not empty and not the directory of a stage"):
        opened(folder, overwrite=True)
    assert names(folder) == ["thesis.tex"]


def test_damage_is_found_and_made_anew(folder, capsys):
    finished(folder)
    (folder / "a.txt").write_text("A.txt")  # of the same size
    with pytest.raises(DataError, match=r"a.txt: damaged: its contents are not those in manifest.json"):
        read_outputs(folder, "write")
    assert not verify_tree(folder.parent)
    assert f"{folder}: write, 2 files, 14 bytes: a.txt damaged" in capsys.readouterr().out
    stage = opened(folder)
    assert stage.done is None and (folder / "damaged" / "a.txt").read_text() == "A.txt"
    assert not (folder / "a.txt").exists()
    write_text(folder / "a.txt", "a.txt")
    stage.finish(counts={})
    assert verify_tree(folder.parent) and capsys.readouterr().out.endswith("write, 2 files, 14 bytes: ok\n")


def test_verify_reads_the_store_and_not_the_cache(folder, object_store):
    finished(folder)
    object_store.requests.clear()
    assert verify_tree(folder)
    assert sum(f"GET {folder.key[folder.key.index('/') :]}/a.txt" in r or "a.txt" in r for r in object_store.requests)


def test_pieces_that_changed_are_made_anew(folder):
    stage = opened(folder)
    for name in ("one.txt", "two.txt"):
        write_text(stage.directory / name, name)
        record_piece(stage.work, name, [stage.directory / name])
    lock.release_lock(folder)
    (folder / "one.txt").write_text("ONE.txt")
    again = opened(folder)
    assert not (folder / "one.txt").exists() and (folder / "two.txt").exists()
    assert [path.name for path in again.work.glob("pieces/*.json")] == ["two.txt.json"]


def test_one_run_holds_a_directory(folder):
    stage = opened(folder)
    holder = json.loads((folder / "run.lock").read_text())
    (folder / "run.lock").write_text(json.dumps(ELSEWHERE))
    with pytest.raises(DataError, match=r"another run holds it: process 17 on other-node .*: xmrank mine; if that run"):
        opened(folder)
    with pytest.raises(DataError, match="another run holds it now"):
        stage.finish(counts={})
    assert holder["pid"] != 17 and (folder / "run.lock").exists()


def test_the_lock_of_a_killed_process_of_this_machine_is_taken_over(folder):
    dead = {**ELSEWHERE, "machine": lock.describe_machine(), "pid": 2**31 - 2}
    (folder / "run.lock").write_text(json.dumps(dead))
    stage = opened(folder)
    assert lock.read_holder(folder / "run.lock").key != ELSEWHERE["key"]
    stage.finish(counts={})
    assert names(folder) == ["manifest.json", "plan.json"]


def test_a_lock_that_was_silent_too_long_is_taken_over_by_one_run(folder, monkeypatch):
    (folder / "run.lock").write_text(json.dumps(ELSEWHERE))
    monkeypatch.setattr(lock, "SILENT_S", 1.5)
    time.sleep(2.5)  # the times of a store are in seconds
    results = []

    def take():
        holder = lock.LockHolder.of_this_process()
        path = RemotePath(str(folder / "run.lock"))
        try:
            if (now := lock.create_lock(path, holder)) is not None:
                lock.refuse_live_holder(folder, now)
                lock.remove_dead_lock(path)
                results.append(lock.create_lock(path, holder) is None)
        except DataError as error:
            results.append(str(error))

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert results.count(True) == 1 and len(results) == 4
    assert names(folder) == ["run.lock"]


def test_a_heartbeat_gives_the_lock_a_new_time(folder):
    stage = opened(folder)
    before = (folder / "run.lock").stat().st_mtime
    time.sleep(1.1)
    lock.touch_locks()
    assert (folder / "run.lock").stat().st_mtime > before
    # That of a run which has taken the directory stays its own.
    (folder / "run.lock").write_text(json.dumps(ELSEWHERE))
    lock.touch_locks()
    assert json.loads((folder / "run.lock").read_text()) == ELSEWHERE and stage.done is None


def test_a_stage_that_is_collected_in_the_thread_of_the_client_gives_its_lock_back(folder):
    stage = opened(folder)
    # Memory is collected wherever Python happens to be, also where requests are made.
    fsspec.asyn.get_loop().call_soon_threadsafe(stage._release)
    end = time.monotonic() + 60
    while (folder / "run.lock").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not (folder / "run.lock").exists()


def test_a_store_that_is_away_keeps_the_lock_and_delays_nobody(folder, object_store):
    stage = opened(folder)  # kept: a stage that is collected gives its lock back
    object_store.stop()
    start = time.monotonic()
    lock.touch_locks()
    lock.release_lock(stage.directory)
    assert time.monotonic() - start < 30
    object_store.start()
    assert names(stage.directory) == ["plan.json", "run.lock"]
