"""A cluster of its own with token authentication, to which jobs are given with ``ray job submit``."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import filterfalse
from pathlib import Path

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")
MARK = "XMRANK_SUBMITTED_AS"
"""Environment variable of every process of a submission: its driver, and its workers on all nodes."""
DETACHED = ("_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker", "PlacementGroupCleaner")
"""Actors of Ray that outlive a job."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        address: of the dashboard, which takes jobs.
        token: file with the token.
        code: folder that is sent with each job.
    """

    address: str
    token: Path
    code: Path

    def submit(self, *command, home=None, token=True):
        """Submit a command and wait for its end; returns the submission's exit status and all that was printed."""
        submission = self.start(*command, home=home, token=token)
        output = submission.client.communicate(timeout=1500)[0]
        return submission.client.returncode, output

    def start(self, *command, home=None, token=True, **variables):
        """Submit a command, with variables in its environment; the client follows it until its end."""
        name = f"job-{uuid.uuid4().hex[:12]}"
        variables |= {MARK: name} | ({"XMRANK_HOME": str(home)} if home else {})
        runtime = ["--runtime-env-json", json.dumps({"env_vars": variables})]
        flags = ["--address", self.address, "--submission-id", name, "--working-dir", str(self.code)]
        client = subprocess.Popen(
            [RAY, "job", "submit", *flags, *runtime, "--", *map(str, command)],
            env=environment_with(self.token if token else None),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return Submission(self, name, client)

    def run_ray(self, *words):
        """A command of ``ray job``; returns its exit status and what it printed."""
        command = [RAY, "job", words[0], "--address", self.address, *words[1:]]
        done = subprocess.run(command, env=environment_with(self.token), capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    @cached_property
    def jobs(self):
        """Ray's client of the job server, which knows every submission."""
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {self.token.read_text()}"})


@dataclass(frozen=True)
class Submission:
    """A command that was submitted.

    Attributes:
        head: runs it.
        name: its submission id.
        client: the process of ``ray job submit``.
    """

    head: Head
    name: str
    client: subprocess.Popen

    def read_record(self):
        """What the job server knows: ``status``, ``driver_exit_code``."""
        return self.head.jobs.get_job_info(self.name)

    def wait_for_record(self, seconds=60):
        """The record once the job has ended."""
        deadline = time.monotonic() + seconds
        while (record := self.read_record()).status not in ENDED and time.monotonic() < deadline:
            time.sleep(0.1)
        return record

    def stop(self):
        """Stop it with ``ray job stop``; returns what that printed."""
        status, output = self.head.run_ray("stop", self.name)
        assert status == 0, output
        return output

    def list_processes(self):
        """Ids of the job's processes on this machine: driver, workers, and Ray's own that watches the driver."""
        mark = f"{MARK}={self.name}".encode()
        numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [number for number in numbers if mark in read_words(number, "environ")]

    def find_driver(self):
        """The process id of the job's script; None where there is none."""
        return min(filter(is_script, self.list_processes()), default=None)

    def wait_for_processes(self, seconds=30):
        """Wait until no process is left, but for Ray's own that stay; returns those that still are."""
        deadline = time.monotonic() + seconds
        while (left := list(filterfalse(is_detached, self.list_processes()))) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left


def read_words(number, kind):
    """The command line or environment of a process; nothing of one that is gone, or dead and not yet waited for."""
    try:
        return Path(f"/proc/{number}/{kind}").read_bytes().split(b"\0")
    except OSError:
        return []


def is_script(number):
    """Whether a process is Python on one of the jobs' scripts."""
    words = read_words(number, "cmdline")
    return len(words) > 1 and b"python" in words[0] and words[1].startswith(b"jobs/")


def is_detached(number):
    """Whether a process is one of Ray's actors that stay until the cluster's end."""
    return read_words(number, "cmdline")[:1] in [[f"ray::{name}".encode()] for name in DETACHED]


def environment_with(token):
    """The caller's environment, but for what Ray reads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XMRANK_", "MLFLOW_"))}
    kept["PATH"] = f"{RAY.parent}:{kept['PATH']}"  # "python" is the one with xmrank
    # By default Ray gives its workers the least share of a busy machine.
    kept["RAY_worker_niceness"] = "0"
    return kept | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)} if token else {})


def copy_code(folder):
    """What is in the repository and a job needs."""
    for name in ("jobs", "xmrank"):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", folder)
    return folder


@contextmanager
def running_head(folder, code, cpus=2):
    """A head on free ports; it and all it started are ended by their process group.

    Args:
        folder: takes the token and the head's log.
        code: what is sent with each job.
        cpus: of the head.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    dashboard = free_port()
    # The paths of Ray's sockets may have 107 characters.
    session = tempfile.mkdtemp(dir="/tmp", prefix="ray-")
    log = folder / "log"
    flags = {
        "port": free_port(), "dashboard-host": "127.0.0.1", "dashboard-port": dashboard,
        "dashboard-agent-listen-port": free_port(), "ray-client-server-port": free_port(),
        "temp-dir": session, "num-cpus": cpus, "object-store-memory": 200_000_000, "node-ip-address": "127.0.0.1",
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


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def wait_until_it_answers(address, process, log):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if status_of(f"{address}/api/jobs/") == 401:  # it knows of jobs, and that we have shown no token
            return
        time.sleep(0.2)
    raise RuntimeError(f"the head does not answer: {log.read_text()}")


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
