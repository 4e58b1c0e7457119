"""One run holds a directory: another is refused at once, a dead holder loses it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from xmrank.runtime import lock
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.lock import LockHolder, acquire_lock, read_holder, release_lock

HOLDER = """
import sys, time
from pathlib import Path
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.endings import install_handlers
install_handlers()
stage = StageDirectory.open(Path(sys.argv[1]), "embed", config={"dtype": "float16"}, inputs={})
(stage.work / ".tmp-0123abcd-image-000000.npy").write_bytes(b"half")
print("holding", flush=True)
time.sleep(600)
"""


def opened(folder, dtype="float16", **flags):
    return StageDirectory.open(folder, "embed", config={"dtype": dtype}, inputs={}, **flags)


def write_lock(folder, **changes):
    """The lock of another run; by default of a live process on this machine, that of the tests' parent."""
    holder = replace(LockHolder.of_this_process(), pid=os.getppid(), command="xmrank embed --output store")
    holder = replace(holder, **{"started": lock.find_start(os.getppid()), **changes})
    folder.mkdir(exist_ok=True)
    (folder / "run.lock").write_text(json.dumps(asdict(holder)))
    return holder


def age_lock(folder, seconds):
    """Let the lock's last heartbeat be some seconds ago."""
    then = time.time() - seconds
    os.utime(folder / "run.lock", (then, then))


def is_refused(folder):
    try:
        acquire_lock(folder)
    except DataError:
        return True
    release_lock(folder)
    return False


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def running(folder):
    """Another process that works in the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_at_once_and_touches_nothing(folder, running):
    plan = (folder / "plan.json").read_bytes()
    for flags in ({}, {"overwrite": True}):
        with pytest.raises(DataError) as refusal:
            opened(folder, "float32", **flags)
        assert str(refusal.value).startswith(f"{folder}: another run holds it: process {running.pid} on ")
        assert "\n" not in str(refusal.value)
    assert (folder / "plan.json").read_bytes() == plan
    assert (folder / "work/.tmp-0123abcd-image-000000.npy").exists()
    # Killed without a chance to clean up: its directory is free, its temporary files go, its configuration counts.
    running.kill()
    running.wait()
    assert (folder / "run.lock").exists()
    stage = opened(folder)
    assert not (folder / "work/.tmp-0123abcd-image-000000.npy").exists()
    assert read_holder(folder / "run.lock").pid == os.getpid()
    (folder / "image.npy").write_bytes(b"half precision")
    stage.finish(counts={})
    assert not (folder / "run.lock").exists()
    with pytest.raises(DataError, match='holds another configuration: dtype is "float16" there, "float32" here'):
        opened(folder, "float32")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_a_signal_ends_gives_its_directory_back(folder, running, number):
    running.send_signal(number)
    running.communicate(timeout=60)
    assert not (folder / "run.lock").exists()


def test_stages_of_one_process_share_a_directory(folder):
    one, other = opened(folder), opened(folder)
    del one
    assert (folder / "run.lock").exists()
    del other
    assert not (folder / "run.lock").exists()


def test_a_stage_that_fails_gives_its_directory_back(folder):
    def fail():
        stage = opened(folder)
        raise ValueError(stage.name)

    with pytest.raises(ValueError, match="embed"):
        fail()
    assert not (folder / "run.lock").exists()


@pytest.mark.parametrize(
    ("holder", "silence_s", "refused"),
    [
        ({}, 0, True),
        ({}, 10_000, True),  # it lives: a stopped heartbeat means nothing where its process can be seen
        ({"pid": 2**22 + 1}, 0, False),
        ({"started": "1"}, 0, False),  # the number was used again
        ({"machine": "another", "host": "node7"}, 0, True),
        ({"machine": "another", "host": "node7", "pid": 2**22 + 1}, 200, True),
        ({"machine": "another", "host": "node7"}, 301, False),
        ({"machine": "another", "host": "node7"}, -200, True),  # clocks differ a little
        ({"machine": "another", "host": "node7"}, -10_000, False),  # no heartbeat: a copy, or a clock set wrong
    ],
)
def test_a_holder_is_dead_when_its_process_is_gone_or_another_host_is_silent(folder, holder, silence_s, refused):
    other = write_lock(folder, **holder)
    age_lock(folder, silence_s)
    assert is_refused(folder) == refused
    if refused:
        remedy = f"; if that run is known to be gone, remove {folder}/run.lock" if "machine" in holder else ""
        with pytest.raises(
            DataError, match=f"process {other.pid} on {other.host} since .* embed --output store{remedy}$"
        ):
            acquire_lock(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_that_says_nothing_is_believed_while_it_is_new(folder, text):
    folder.mkdir()
    (folder / "run.lock").write_text(text)
    assert is_refused(folder)
    for silence_s in (301, -301):
        (folder / "run.lock").write_text(text)
        age_lock(folder, silence_s)
        assert not is_refused(folder)


def test_a_lock_with_values_of_other_types_says_nothing(folder):
    folder.mkdir()
    path = folder / "run.lock"
    for change in ({"pid": -1}, {"pid": "1"}, {"pid": 2**40}, {"host": None}):
        holder = write_lock(folder)
        path.write_text(json.dumps(vars(holder) | change))
        assert read_holder(path) is None
    path.unlink()
    os.mkfifo(path)
    assert read_holder(path) is None


def test_a_heartbeat_keeps_the_lock_young(folder):
    folder.mkdir()
    acquire_lock(folder)
    age_lock(folder, 1000)
    lock.touch_locks()
    assert time.time() - (folder / "run.lock").stat().st_mtime < 100
    release_lock(folder)


def test_a_run_that_lost_its_directory_does_not_finish(folder):
    stage = opened(folder)
    other = write_lock(folder, machine="another")
    with pytest.raises(DataError, match="another run holds it now"):
        stage.finish(counts={})
    assert not (folder / "manifest.json").exists()
    del stage
    assert read_holder(folder / "run.lock") == other


def test_of_two_runs_that_remove_a_dead_lock_the_live_one_stays(folder, monkeypatch):
    dead = write_lock(folder, pid=2**22 + 1)
    live = write_lock(folder)
    seen = iter([dead])
    # What the second run read was the dead holder's; meanwhile the first has made a lock of its own.
    monkeypatch.setattr(lock, "read_holder", lambda path: next(seen, live))
    lock.remove_dead_lock(folder / "run.lock")
    monkeypatch.undo()
    assert read_holder(folder / "run.lock") == live


def test_without_hard_links_only_one_makes_the_lock(folder, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    folder.mkdir()
    monkeypatch.setattr(lock.os, "link", refuse)
    holder = LockHolder.of_this_process()
    assert lock.create_lock(folder / "run.lock", holder) is None
    assert lock.create_lock(folder / "run.lock", replace(holder, key="other")) is not None
    assert read_holder(folder / "run.lock") == holder


def test_a_finished_stage_is_read_by_many_and_where_nobody_may_write(folder):
    stage = opened(folder)
    (folder / "image.npy").write_bytes(b"half precision")
    manifest = stage.finish(counts={})
    before = folder.stat().st_mtime_ns
    assert opened(folder).done == opened(folder).done == manifest
    assert folder.stat().st_mtime_ns == before  # no file was made or removed in it
    # What a run leaves that is killed between its manifest and its end does not stand in a reader's way.
    write_lock(folder, machine="another")
    assert opened(folder).done == manifest
    with pytest.raises(DataError, match="another run holds it"):
        opened(folder, overwrite=True)
