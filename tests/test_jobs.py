"""Jobs given to a running cluster with ``ray job submit``, with token authentication, as the README has it."""

import json
import re
import shlex
import time

import numpy as np
import pytest
from cluster_head import copy_code, running_head, status_of

from xmrank.runtime.manifest import read_manifest

pytestmark = pytest.mark.own_ray


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head of two CPUs; the code that is sent has an environment and runs that git ignores beside it."""
    code = copy_code(tmp_path_factory.mktemp("submitted") / "code")
    for ignored in (".venv", "runs"):
        (code / ignored).mkdir()
        (code / ignored / "large").touch()
    with running_head(tmp_path_factory.mktemp("head"), code) as head:
        yield head


@pytest.fixture
def import_flags(tmp_path):
    """Flags of a tiny import: four images with five captions each, by absolute paths."""
    generator = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", generator.normal(size=(4, 8)).astype(np.float32))
    np.save(tmp_path / "texts.npy", generator.normal(size=(20, 8)).astype(np.float32))
    ids = {"image_ids": list("abcd"), "caption_ids": list(range(20)), "split": ["train", "train", "val", "test"]}
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    files = {"images": "images.npy", "texts": "texts.npy", "ids": "ids.json"}
    return [f"--import-{name}={tmp_path / file}" for name, file in files.items()]


def test_submitted_jobs(head, import_flags, tmp_path):
    """One submission for three commands: with a home, without one, and a look at what was sent."""
    job = shlex.join(["python", "jobs/embed.py", *import_flags, "--output", "runs/tiny/embeddings"])
    status, output = head.submit(
        "bash", "-c", f"{job}; echo status $?; env -u XMRANK_HOME {job}; echo status $?; ls -A", home=tmp_path
    )
    assert status == 0, output
    with_home, without_home, listing = re.split(r"status \d\n", output)
    assert re.findall(r"status (\d)\n", output) == ["0", "2"]  # a wrong setting is 2

    assert f"embed: 4 images, 20 captions in {tmp_path}/runs/tiny/embeddings" in with_home
    manifest = read_manifest(tmp_path / "runs/tiny/embeddings", "embed")
    assert manifest.counts == {"images": 4, "captions": 20}

    assert (
        "embed: a relative path inside a Ray job would lead into the job's temporary copy of the code" in without_home
    )
    assert "set XMRANK_HOME" in without_home
    assert "Traceback" not in without_home.split("embed: ")[0]

    # Only what git keeps.
    listed = {line.strip() for line in listing.splitlines()}
    assert {"jobs", "xmrank", ".gitignore"} <= listed
    assert not {".venv", "runs"} & listed


def test_a_job_that_is_stopped_leaves_nothing_and_continues(head, tmp_path):
    """At work, as ``ray job stop`` finds it; then the same command again, and beside it one with a wrong flag."""
    scenes = ["--scenes.train", "300", "--scenes.val", "10", "--scenes.test", "10", "--shard-size", "8"]
    command = ["python", "jobs/embed.py", *scenes, "--output", "runs/scenes/embeddings"]
    output = tmp_path / "runs/scenes/embeddings"
    # Ray gives a job three seconds to end, which may be too few on a busy machine.
    job = head.start(*command, home=tmp_path, RAY_JOB_STOP_WAIT_TIME_S="60")
    while not any(output.glob("work/image-*.json")) and job.client.poll() is None:
        time.sleep(0.02)
    job.stop()
    printed = job.client.communicate(timeout=60)[0]
    # Ray's client calls that no failure.
    assert (job.read_record().status, job.client.returncode) == ("STOPPED", 0), printed
    assert not job.wait_for_processes()
    assert not (output / "run.lock").exists() and not (output / "manifest.json").exists()
    assert printed.count("embed: terminated") == 1 and "Traceback" not in printed

    wrong = head.start("python", "jobs/embed.py", "--shard-size", 0, home=tmp_path)
    status, printed = head.submit(*command, home=tmp_path)
    assert status == 0 and re.search(r"^embed: [1-9]\d* of 1,920 done before$", printed, re.MULTILINE), printed
    assert read_manifest(output, "embed").counts["images"] == 320
    printed = wrong.client.communicate(timeout=60)[0]
    record = wrong.read_record()
    assert (record.status, record.driver_exit_code, wrong.client.returncode) == ("FAILED", 2, 1)
    assert "embed: --shard-size 0: expected at least 1" in printed.splitlines()


def test_nobody_gets_in_without_the_token(head):
    status, output = head.submit("true", token=False)
    assert status != 0
    assert "401" in output or "Unauthorized" in output or "authentication" in output.lower()
    assert status_of(f"{head.address}/api/jobs/") == 401
