"""Jobs given to a running cluster with ``ray job submit``, with token authentication, as the README has it."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from xmrank.runtime.manifest import read_manifest

pytestmark = pytest.mark.own_ray
ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    """A running head."""

    address: str
    token: Path
    code: Path

    def submit(self, *command, home=None, token=True):
        """Submit a command and wait for its end; returns the submission's exit status and all that was printed."""
        environment = environment_with(self.token if token else None)
        variables = {"XMRANK_HOME": str(home)} if home else {}
        runtime = ["--runtime-env-json", json.dumps({"env_vars": variables})]
        place = ["--address", self.address, "--working-dir", str(self.code)]
        done = subprocess.run(
            [RAY, "job", "submit", *place, *runtime, "--", *map(str, command)],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


def environment_with(token):
    """The caller's environment, but for what Ray reads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XMRANK_", "MLFLOW_"))}
    kept["PATH"] = f"{RAY.parent}:{kept['PATH']}"  # "python" is the one with xmrank
    return kept | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)} if token else {})


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """What is in the repository, with an environment and runs that git ignores beside it."""
    folder = tmp_path_factory.mktemp("submitted") / "code"
    for name in ("jobs", "xmrank"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", folder)
    for ignored in (".venv", "runs"):
        (folder / ignored).mkdir()
        (folder / ignored / "large").touch()
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory, code):
    """A head of two CPUs on free ports; it and all it started are ended by their process group."""
    token = tmp_path_factory.mktemp("secret") / "token"
    token.write_text(secrets.token_hex(32))
    dashboard = free_port()
    # The paths of Ray's sockets may have 107 characters.
    session = tempfile.mkdtemp(dir="/tmp", prefix="ray-")
    log = tmp_path_factory.mktemp("head") / "log"
    flags = {
        "port": free_port(), "dashboard-host": "127.0.0.1", "dashboard-port": dashboard,
        "dashboard-agent-listen-port": free_port(), "ray-client-server-port": free_port(),
        "temp-dir": session, "num-cpus": 2, "object-store-memory": 200_000_000, "node-ip-address": "127.0.0.1",
    }  # fmt: skip
    process = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--disable-usage-stats", *(f"--{k}={v}" for k, v in flags.items())],
        env=environment_with(token), stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_until_it_answers(address, process, log)
        yield Head(address, token, code)
    finally:
        end_group(process)
        shutil.rmtree(session, ignore_errors=True)


def wait_until_it_answers(address, process, log):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if status_of(f"{address}/api/jobs/") == 401:  # it knows of jobs, and that we have shown no token
            return
        time.sleep(0.2)
    pytest.fail(f"the head does not answer: {log.read_text()}")


def status_of(url):
    """The HTTP status of a request without a token; None where nothing answers."""
    try:
        return urllib.request.urlopen(url, timeout=5).status  # noqa: S310
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def end_group(process):
    """End a process and those of its group, which are all that a head starts."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue


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


def test_nobody_gets_in_without_the_token(head):
    status, output = head.submit("true", token=False)
    assert status != 0
    assert "401" in output or "Unauthorized" in output or "authentication" in output.lower()
    assert status_of(f"{head.address}/api/jobs/") == 401
