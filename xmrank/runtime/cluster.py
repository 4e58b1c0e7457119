"""The Ray cluster that a stage runs on: the one of the job, the one that RAY_ADDRESS names, or one of its own."""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import ray

from xmrank.runtime.paths import in_ray_job

Item = TypeVar("Item")
Result = TypeVar("Result")

OBJECT_STORE_BYTES = 512 * 1024**2
"""Of a cluster of our own: stages pass row numbers and paths, never tables of embeddings."""


def connect() -> None:
    """Join the cluster, or start one on this machine; does nothing when that has happened.

    A cluster of our own has no dashboard, listens on loopback, and its workers' output stays in Ray's log folder: jobs
    show their own progress, and failures come back as exceptions. ``address="local"`` matters: without it, the address
    that a dead cluster left behind makes the start hang.
    """
    if ray.is_initialized():
        return
    if in_ray_job() or os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
        return
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )


def pool_size(requested: int) -> tuple[int, float, int]:
    """How many worker processes fit on the cluster, and what each holds.

    Args:
        requested: the user's number, or 0: one a GPU when there are GPUs, else one a core.

    Returns:
        workers, CPUs each (a fraction where the workers would else take every core and leave none to the tasks that
        feed them), GPUs each.
    """
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 1.0), int(resources.get("GPU", 0))
    workers = requested or gpus or max(1, int(cpus))
    spare = max(cpus - 0.5, 0.5)
    share = math.floor(10_000 * spare / workers) / 10_000  # rounded up, many workers would take the spare half too
    return workers, min(1.0, share), 1 if gpus >= workers else 0


def run_tasks(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0) -> Iterator[Result]:
    """Run a function on every item as a task of the cluster, at most ``workers`` at once (0: one a GPU, or one a core).

    Yields:
        The results in the order of the items, whatever the number of workers.
    """
    connect()
    workers, cpus, gpus = pool_size(workers)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    pending: list[ray.ObjectRef] = []
    for item in items:
        pending.append(remote.remote(item))
        # Twice the workers keeps all busy while results are taken in order, and bounds what waits in memory.
        if len(pending) >= 2 * workers:
            yield ray.get(pending.pop(0))
    while pending:
        yield ray.get(pending.pop(0))
