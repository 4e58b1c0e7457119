"""A run whose outputs are all in an object store: killed, continued, with the store away for a while."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xmrank.runtime.lock import read_holder
from xmrank.runtime.paths import resolve
from xmrank.runtime.storage import list_files
from xmrank.runtime.verification import verify_tree

TESTS = Path(__file__).parents[1]


def start(home, *roots):
    """The run below each root; what it says goes to a file."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    environment |= {"XMRANK_HOME": str(home), "XMRANK_CACHE": str(home / "cache"), "XMRANK_STORAGE_TIMEOUT": "120"}
    with (home / "said").open("a") as said:
        command = [sys.executable, TESTS / "remote_driver.py", *map(str, roots)]
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said)


def wait_for(job, home, condition):
    """Until something holds, while the job goes on."""
    end = time.monotonic() + 900
    while not condition() and time.monotonic() < end:
        assert job.poll() is None, (home / "said").read_text()
        # The store answers in this process: looking more often would take a core from the run.
        time.sleep(0.2)
    assert condition(), (home / "said").read_text()


def holds(job, directory):
    """Whether the run works in a stage's directory."""
    holder = read_holder(directory / "run.lock")
    return holder is not None and holder.pid == job.pid


def pause(object_store):
    """The store is away for a while."""
    object_store.stop()
    time.sleep(4)
    object_store.start()


def kill(job):
    """End the job without a word."""
    job.send_signal(signal.SIGKILL)
    job.wait()


@pytest.mark.own_ray
def test_a_run_in_a_store_ends_like_one_on_a_disk_whatever_happens(tmp_path, bucket, object_store, track_at):
    track_at(tmp_path)
    root = resolve(f"{bucket}/runs/one")
    job = start(tmp_path, root)
    wait_for(job, tmp_path, lambda: any((root / "embeddings" / "work").glob("image-*.json")))
    kill(job)
    job = start(tmp_path, root)
    wait_for(job, tmp_path, lambda: holds(job, root / "embeddings"))
    pause(object_store)
    wait_for(job, tmp_path, lambda: any((root / "rankers" / "trials").glob("*/state.safetensors")))
    kill(job)
    job = start(tmp_path, root, tmp_path / "disk")
    wait_for(job, tmp_path, lambda: holds(job, root / "rankers"))
    pause(object_store)
    assert job.wait() == 0, (tmp_path / "said").read_text()

    said = (tmp_path / "said").read_text()
    remote, local = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert remote == local and len(local) == 4
    assert said.count("it is tried again for up to 120 s") >= 2
    assert verify_tree(root)
    left = {path.name for path in list_files(root) if path.name == "run.lock" or "work" in path.parts}
    assert not left, left
