"""The one launcher of Ray Train: runs a function in several processes of the cluster and survives their deaths."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from xmrank.runtime.cluster import connect, pool_size
from xmrank.runtime.errors import find_cause, is_permanent

Payload = TypeVar("Payload")

RESTARTS = 3
"""How often Ray Train replaces workers that died before it gives up."""


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


class InterruptibleTrainer(TorchTrainer):  # type: ignore[misc]
    """A trainer that SIGINT stops as it stops any Python code; Ray's ends the process with status 0 or 1."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave the handler as it is."""


class StopAtPermanentFailure(UserCallback):  # type: ignore[misc]
    """Ends a run whose workers would fail again: Ray Train restarts workers only when they died of something else."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Raise the cause, which ends the run, when it is permanent."""
        for error in worker_exceptions.values():
            cause = find_cause(error)
            if is_permanent(cause):
                raise cause


def launch_workers(
    function: Callable[[Payload, Worker], None],
    payload: Payload,
    *,
    name: str,
    scratch: Path,
    workers: int,
    tasks: int | None = None,
    group_size: int = 1,
) -> int:
    """Run ``function(payload, worker)`` in every worker process of one Ray Train run, and wait for all of them.

    torch.distributed is initialised before the function is called (NCCL on GPUs, Gloo on CPUs). When a process dies,
    Ray Train starts all of them again: the function must take up its work from what is on disk.

    Args:
        function: of a module, so that worker processes can import it. What it raises restarts all workers, unless
            the error is permanent: then it ends the run.
        payload: the function's first argument; pickled, so better paths than arrays.
        name: of the Ray Train run.
        scratch: folder for Ray Train's own files.
        workers: number of processes, 0: one a GPU, or one a core without GPUs.
        tasks: pieces of work for the processes; no more processes start than have one. None: no such limit.
        group_size: processes that work on one task together; the number of processes is a multiple of it.

    Returns:
        The number of processes.
    """
    # Ray Train looks at its workers every 2 s by default, which a run of a few seconds would spend waiting.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    connect()
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    available, _, _ = pool_size(workers)
    count, cpus, gpus = pool_size(count_workers(available, tasks, group_size))
    trainer = InterruptibleTrainer(
        run_worker,
        train_loop_config={"function": function, "payload": payload},
        scaling_config=ScalingConfig(num_workers=count, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus}),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=RESTARTS),
            callbacks=[StopAtPermanentFailure()],
        ),
    )
    trainer.fit()
    return count


def count_workers(available: int, tasks: int | None, group_size: int) -> int:
    """As many workers as are available and have a task, in whole groups, and at least one group."""
    useful = available if tasks is None else min(available, tasks * group_size)
    return max(group_size, useful // group_size * group_size)


def run_worker(settings: dict[str, Any]) -> None:
    """What Ray Train calls in every process: set torch up, then call the function."""
    # One process a core is faster than one process with several threads.
    torch.set_num_threads(1)
    device = get_device()
    if device.type == "cuda":
        # All workers of a node see all of its GPUs. NCCL gathers objects on the current one, so it must be the own.
        torch.cuda.set_device(device)
    context = get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    settings["function"](settings["payload"], worker)
