"""--device: what is wanted, what there is, and which processes may use it."""

import sys
import types

import pytest
import ray
import torch

from xmrank.runtime import cluster
from xmrank.runtime.device import VARIABLE, VISIBLE, list_gpus, may_use_gpu, own_device, request_device
from xmrank.runtime.errors import ConfigError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes cannot import the tests


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No request, no cluster, and GPUs as the machine shows them; what a test sets is undone."""
    for name in (VARIABLE, VISIBLE, "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes NVIDIA's program that names the GPUs."""

    def make(*names, fails=False):
        program = tmp_path / "nvidia-smi"
        lines = "".join(f"echo '{name}'\n" for name in names)
        program.write_text(f"#!/bin/sh\n{lines}exit {int(fails)}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return make


def test_gpus_are_named_without_torch(machine, monkeypatch):
    machine("NVIDIA H200", "NVIDIA L4")
    assert list_gpus() == ["NVIDIA H200", "NVIDIA L4"]
    monkeypatch.setenv(VISIBLE, "1")
    assert len(list_gpus()) == 1
    monkeypatch.setenv(VISIBLE, "")
    assert list_gpus() == []


def test_a_driver_that_fails_has_no_gpus(machine):
    machine("No devices were found", fails=True)
    assert list_gpus() == []


def test_a_gpu_that_is_wanted_must_be_there(machine, monkeypatch):
    machine()
    with pytest.raises(ConfigError, match=r"^--device cuda: no GPU can be seen on this machine; expected auto or cpu$"):
        request_device("cuda")
    # A cluster's GPUs are not those of this machine.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    request_device("cuda")
    monkeypatch.delenv("RAY_ADDRESS")
    machine("NVIDIA H200")
    request_device("cuda")


def test_an_unknown_device_of_the_environment_is_named(monkeypatch):
    monkeypatch.setenv(VARIABLE, "tpu")
    with pytest.raises(ConfigError, match=r"^XMRANK_DEVICE=tpu: expected one of auto, cpu, cuda$"):
        request_device(None)


def test_without_a_gpu_wanted_none_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device().type == "cuda"
    request_device("cpu")
    assert own_device().type == "cpu" and list_gpus() == []
    # The flag wins over the variable, and the variable holds without it.
    monkeypatch.setenv(VARIABLE, "auto")
    assert own_device().type == "cuda"
    request_device("cpu")
    request_device(None)
    assert own_device().type == "cpu"


@pytest.mark.parametrize(("held", "device"), [([], "cpu"), ([1], "cuda")])
def test_a_worker_uses_a_gpu_that_it_holds_and_no_other(monkeypatch, held, device):
    worker = types.SimpleNamespace(worker=types.SimpleNamespace(mode=1))
    fake = types.SimpleNamespace(
        is_initialized=lambda: True, get_runtime_context=lambda: worker, WORKER_MODE=1, get_gpu_ids=lambda: held
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device().type == device
    # A driver is no worker.
    worker.worker.mode = 0
    assert may_use_gpu()


@pytest.mark.ray
def test_a_task_without_a_gpu_is_a_worker_and_knows_it(ray_cluster, monkeypatch):
    assert list(cluster.run_tasks(ask_whether_gpu, [0], workers=1)) == [False]
    assert may_use_gpu()


def ask_whether_gpu(_):
    from xmrank.runtime.device import may_use_gpu

    return may_use_gpu()


@pytest.fixture
def nodes(monkeypatch):
    """A cluster of two GPUs, as Ray tells of it; without GPUs, if it is called."""
    node = {"CPU": 4.0, "GPU": 2.0}
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: node)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": node}])
    return lambda: node.pop("GPU")


def test_workers_hold_gpus_unless_they_are_not_wanted_or_of_no_use(nodes, monkeypatch):
    assert cluster.pool_size(0)[::2] == (2, 1)
    assert cluster.pool_size(0, on_gpus=False)[::2] == (4, 0)
    monkeypatch.setenv(VARIABLE, "cpu")
    assert cluster.pool_size(0)[::2] == (4, 0)
    monkeypatch.setenv(VARIABLE, "cuda")
    assert cluster.pool_size(0)[::2] == (2, 1)
    expected = "--workers 3: expected at most 2 with --device cuda, one for each GPU"
    with pytest.raises(ConfigError, match=f"^{expected}$"):
        cluster.pool_size(3)
    assert cluster.pool_size(3, on_gpus=False)[::2] == (3, 0)


def test_a_cluster_without_the_gpu_that_is_wanted_is_refused(nodes, monkeypatch):
    monkeypatch.setenv(VARIABLE, "cuda")
    cluster.refuse_missing_gpus()
    nodes()
    with pytest.raises(ConfigError, match=r"^--device cuda: the cluster has 4 CPUs$"):
        cluster.refuse_missing_gpus()
    monkeypatch.setenv(VARIABLE, "auto")
    cluster.refuse_missing_gpus()
