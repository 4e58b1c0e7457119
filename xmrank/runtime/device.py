"""The device that work runs on: what ``--device`` says, what this machine has, and what a process may use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from xmrank.runtime.errors import ConfigError
from xmrank.runtime.paths import is_given_cluster

if TYPE_CHECKING:
    import torch

VARIABLE = "XMRANK_DEVICE"
AUTO, CPU, CUDA = "auto", "cpu", "cuda"
DEVICES = (AUTO, CPU, CUDA)
VISIBLE = "CUDA_VISIBLE_DEVICES"
ANSWER_S = 20.0
"""How long NVIDIA's driver may take to name its GPUs."""


def request_device(device: str | None) -> None:
    """Note what ``--device`` says, before anything looks for GPUs; processes that this one starts know it too.

    Args:
        device: one of `DEVICES`; None: what XMRANK_DEVICE says.

    Raises:
        ConfigError: XMRANK_DEVICE is none of them, or there is no GPU where one is wanted; a cluster that there is
            already is looked at by `connect`.
    """
    if device is not None:
        os.environ[VARIABLE] = device
    wanted = requested_device()
    if wanted == CPU:
        # For torch and FAISS in this process, and for a cluster that it starts.
        os.environ[VISIBLE] = ""
    if wanted == CUDA and not is_given_cluster() and not list_gpus():
        raise ConfigError(f"--device {CUDA}: no GPU can be seen on this machine; expected {AUTO} or {CPU}")


def requested_device() -> str:
    """What ``--device`` says, or XMRANK_DEVICE.

    Raises:
        ConfigError: the variable is none of `DEVICES`.
    """
    device = os.environ.get(VARIABLE) or AUTO
    if device not in DEVICES:
        raise ConfigError(f"{VARIABLE}={device}: expected one of {', '.join(DEVICES)}")
    return device


def list_gpus() -> list[str]:
    """The names of the NVIDIA GPUs of this machine that this process may see; found without torch."""
    visible = os.environ.get(VISIBLE)
    if visible == "" or not (program := shutil.which("nvidia-smi")):
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True)
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer, or no device
        return []
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    # Numbers or UUIDs; how many there are is what counts here.
    return names if visible is None else names[: len(visible.split(","))]


def name_device(gpus: float) -> str:
    """The device of a worker that holds so many GPUs."""
    return CUDA if gpus else CPU


def may_use_gpu() -> bool:
    """Whether this process may use a GPU that it sees: a worker of Ray only one that Ray has given it.

    Ray hides no GPUs from workers that hold none: all of them would use the first one.
    """
    ray = sys.modules.get("ray")  # what runs without a cluster does not import it
    if ray is not None and ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        return bool(ray.get_gpu_ids())
    return requested_device() != CPU


def own_device() -> torch.device:
    """The device of this process."""
    import torch

    return torch.device(CUDA if may_use_gpu() and torch.cuda.is_available() else CPU)
