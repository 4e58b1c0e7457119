"""The local Ray cluster: its token, its start, and the handlers of signals."""

import gc
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from xmrank.runtime import cluster
from xmrank.runtime.endings import Terminated, install_handlers, kept_handlers
from xmrank.runtime.errors import ConfigError, DataError


@pytest.fixture
def no_cluster(monkeypatch, tmp_path):
    """A process without Ray and without a cluster in its environment."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster, "shorten_end", lambda node: None)


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("mode", ["disabled", ""])
def test_a_local_cluster_without_a_token_is_refused(monkeypatch, mode):
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("started"))
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ConfigError, match=f"^RAY_AUTH_MODE={mode}: expected token, or not set: other machines"):
        cluster.connect()


@pytest.mark.usefixtures("no_cluster")
def test_the_token_is_for_its_user_only(tmp_path):
    token = tmp_path / ".ray" / "auth_token"
    cluster.require_token()
    content = token.read_text()
    assert len(content) == 64 and stat.S_IMODE(token.stat().st_mode) == 0o600
    # As Ray has left it: kept, and closed to others.
    token.chmod(0o644)
    cluster.require_token()
    assert token.read_text() == content and stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.usefixtures("no_cluster")
def test_a_start_that_times_out_is_tried_once_more(monkeypatch):
    starts = []

    def init(**_):
        starts.append(len(starts))
        raise failures[len(starts) - 1]

    monkeypatch.setattr(ray, "init", init)
    failures = [TimeoutError("Timed out after 30 seconds"), RuntimeError("The current node timed out during startup.")]
    with pytest.raises(RuntimeError, match="timed out"):
        cluster.connect()
    assert starts == [0, 1]
    starts.clear()
    failures = [RuntimeError("no memory")]
    with pytest.raises(RuntimeError, match="no memory"):
        cluster.connect()
    assert starts == [0]


def test_handlers_of_a_job_outlive_those_of_ray():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        install_handlers()
        with kept_handlers():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


NET = Path("/proc/net")
CALL = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None))
"""
"""Reads the names in the store of a cluster, as a first step of running code there would."""


def test_a_port_that_other_machines_reach_answers_nobody_without_the_token(ray_cluster):
    address = ray.get_runtime_context().gcs_address
    port = int(address.rpartition(":")[2])
    # As the guide says, the port is open on all interfaces: 0A is LISTEN.
    sockets = [line.split() for file in ("tcp", "tcp6") for line in (NET / file).read_text().splitlines()[1:]]
    hosts = [fields[1] for fields in sockets if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")]
    assert hosts and all(set(host.partition(":")[0]) == {"0"} for host in hosts)
    answers = []
    for mode in ("token", "disabled"):
        environment = {**os.environ, "RAY_AUTH_MODE": mode}
        done = subprocess.run([sys.executable, "-c", CALL, address], env=environment, capture_output=True, text=True)
        answers.append(done)
    assert answers[0].returncode == 0, answers[0].stderr
    assert answers[1].returncode != 0 and "nauthenticated" in answers[1].stderr, answers[1]


def test_what_ray_tells_of_a_lost_node_is_one_line(monkeypatch, capsys):
    worker = ray._private.worker
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    monkeypatch.delenv("RAY_IGNORE_UNHANDLED_ERRORS", raising=False)
    cluster.shorten_messages()
    text = "Raylet is terminated. Termination is unexpected. Last 20 lines:\n    [state-dump] 1 total\n"
    worker.print_to_stdstream({"lines": [text], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "ray: Raylet is terminated\n")


@pytest.mark.usefixtures("ray_cluster")
def test_errors_that_nobody_waits_for_are_not_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(ray._private.worker, "_unhandled_error_handler", shown.append)

    def refuse(number):
        raise DataError(f"row {number}")

    with pytest.raises(ray.exceptions.RayTaskError, match="row 0"):
        list(cluster.run_tasks(refuse, range(3), workers=2))
    gc.collect()
    time.sleep(2)
    assert shown == []


def test_at_the_end_only_the_raylet_has_time_to_end_by_itself():
    ended = []
    node = SimpleNamespace(_kill_process_type=lambda kind, **settings: ended.append((kind, settings)))
    cluster.shorten_end(node)
    for kind in ("raylet", "gcs_server", "dashboard"):
        node._kill_process_type(kind, allow_graceful=True, check_alive=False, wait=False)
    rest = {"check_alive": False, "wait": False}
    graceful = {"raylet": True, "gcs_server": False, "dashboard": False}
    assert ended == [(kind, {"allow_graceful": value, **rest}) for kind, value in graceful.items()]
