"""The one launcher of Ray Train: runs a function in several processes of the cluster and survives their deaths."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from ray.exceptions import RayActorError
from ray.train import FailureConfig, PreemptionError, RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchConfig, get_device

from xmrank.runtime.cluster import connect
from xmrank.runtime.device import CPU, may_use_gpu, name_device
from xmrank.runtime.errors import describe_error, find_cause, is_permanent
from xmrank.runtime.log_levels import is_verbose
from xmrank.runtime.paths import is_given_cluster
from xmrank.runtime.progress import show_activity, show_restart
from xmrank.runtime.ray_trainer import LeanTrainer
from xmrank.runtime.storage import drop_scratch, scratch_folder
from xmrank.runtime.worker_room import WorkerRoom

Payload = TypeVar("Payload")

RESTARTS = 3
"""How often workers that died are started again, beside the times when a node was lost."""


@dataclass(frozen=True)
class Worker:
    """The process that a function runs in.

    Attributes:
        rank: its number among all processes of the run, from 0.
        world_size: how many there are.
        device: the GPU that this process has to itself, or the CPU.
    """

    rank: int
    world_size: int
    device: torch.device


def launch_workers(
    function: Callable[[Payload, Worker], None],
    payload: Payload,
    *,
    name: str,
    scratch: Path,
    workers: int,
    timeout: float,
    tasks: int | None = None,
    group_size: int = 1,
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Run ``function(payload, worker)`` in every worker process of a Ray Train run, and wait for all of them.

    torch.distributed is initialised before the function is called (NCCL on GPUs, Gloo on CPUs). When a process dies,
    all of them are started again, with fewer where the cluster has lost a node: the function must take up its work
    from what is on disk, and its results must not depend on the number of processes.

    Args:
        function: of a module, so that worker processes can import it. What it raises restarts all workers, unless
            the error is permanent: then it ends the run.
        payload: the function's first argument; pickled, so better paths than arrays.
        name: of the Ray Train run, and of the stage in messages.
        scratch: folder for Ray Train's own files; another one stands for it where it is remote.
        workers: number of processes, 0: one a GPU, or one a core without GPUs.
        timeout: seconds to wait, in all, for room for the processes.
        tasks: pieces of work for the processes; no more processes start than have one. None: no such limit.
        group_size: processes that work on one task together; the number of processes is a multiple of it.
        prepare: called in this process before every start, when no worker runs.

    Returns:
        The number of processes, of the last start.

    Raises:
        XmrankError: the cluster has no room for a single group.
        TrainingFailedError, RayActorError: what the function raised, if it is permanent, or workers died too often.
    """
    # Ray Train looks at its workers every 2 s by default, which a run of a few seconds would spend waiting.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    if is_given_cluster():
        # The dashboard's Train page is empty without; the metrics are on by themselves.
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    connect()
    logging.getLogger("ray.train").setLevel(logging.INFO if is_verbose() else logging.WARNING)
    room = WorkerRoom(name, workers, tasks, group_size, timeout)
    restarts = 0
    while True:
        prepare()
        count = room.find_count()
        show_activity("the workers of a Ray Train run", count, name_device(room.resources.get("GPU", 0)))
        try:
            make_trainer(function, payload, name, scratch, count, room.resources).fit()
            drop_scratch(scratch)
            return count
        except (TrainingFailedError, RayActorError) as error:  # RayActorError: Ray Train's own process died
            # A loss that a node announces (a preemption) is no fault of the work: it does not count.
            restarts += not isinstance(error, PreemptionError)
            cause = find_cause(error)
            # Nor does one without notice: a long run loses many nodes of a spot market.
            if is_permanent(cause) or restarts - room.count_lost_nodes() > RESTARTS:
                raise
            print(f"{name}: workers start again: {describe_error(cause)}", file=sys.stderr, flush=True)
            show_restart()


def make_trainer(
    function: Callable[[Payload, Worker], None],
    payload: Payload,
    name: str,
    scratch: Path,
    workers: int,
    resources: Mapping[str, float],
) -> LeanTrainer:
    """A Ray Train run that ends with the first failure: `launch_workers` decides what is done then."""
    on_gpus = "GPU" in resources
    return LeanTrainer(
        run_worker,
        train_loop_config={"function": function, "payload": payload},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpus, resources_per_worker=dict(resources)),
        torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=str(scratch_folder(scratch)),
            # Left to itself, Ray Train waits without end for a node that does not come back.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
        ),
    )


def run_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls in every process: set torch up, then call the function."""
    # One process a core is faster than one process with several threads.
    torch.set_num_threads(1)
    device = get_device() if may_use_gpu() else torch.device(CPU)
    if device.type == "cuda":
        # All workers of a node see all of its GPUs. NCCL gathers objects on the current one, so it must be the own.
        torch.cuda.set_device(device)
    context = get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    settings["function"](settings["payload"], worker)
