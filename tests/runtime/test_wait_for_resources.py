"""XMRANK_WAIT_FOR: a job waits for nodes that an autoscaler starts, reserves nothing after it, and goes on at last."""

import time

import pytest
import ray

from xmrank.runtime import cluster
from xmrank.runtime.errors import ConfigError


@pytest.mark.parametrize("wanted", ["4", "GPU", "GPU:0", "TPU:4", "GPU:4;CPU:2", "GPU:-1"])
def test_what_is_wrong_is_named(wanted):
    with pytest.raises(ConfigError, match=f"^XMRANK_WAIT_FOR={wanted}: expected GPU:4, CPU:64 or both with a comma$"):
        cluster.wait_for_resources(wanted, 1)


def test_nothing_is_waited_for_by_default(monkeypatch):
    monkeypatch.setattr(cluster, "placement_group", lambda _: pytest.fail("reserved"))
    cluster.wait_for_resources("", 1)


def test_a_job_on_a_cluster_waits_and_a_local_one_does_not(monkeypatch):
    waited = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(cluster, "require_token", lambda: None)
    monkeypatch.setattr(cluster, "wait_for_resources", lambda wanted, _: waited.append(wanted))
    monkeypatch.setenv("XMRANK_WAIT_FOR", "GPU:4")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster.connect()
    assert waited == []
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    cluster.connect()
    assert waited == ["GPU:4"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_resources_that_are_there_are_free_afterwards(capsys):
    cpus = int(ray.cluster_resources()["CPU"])
    cluster.wait_for_resources(f"CPU:{cpus}", 60)
    assert capsys.readouterr().err == ""
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < cpus:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_goes_on_with_what_there_is(capsys):
    cpus = cluster.describe_resources()
    cluster.wait_for_resources("GPU:4", 0.5)
    assert capsys.readouterr().err.splitlines() == [
        f"waiting up to 0 s for GPU:4 (XMRANK_WAIT_FOR), the cluster has {cpus}",
        f"going on, the cluster has {cpus}",
    ]
