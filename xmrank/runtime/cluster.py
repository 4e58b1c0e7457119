"""The Ray cluster that a stage runs on: that of the job, the one in RAY_ADDRESS, or a local one."""

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
"""Size of the object store of a local cluster. It is small, since stages pass row numbers and paths, not arrays."""


def connect() -> None:
    """Connect to the cluster, or start one on this machine; does nothing if Ray is initialised.

    A local cluster has no dashboard, and the output of its workers goes to Ray's log folder only: jobs show their own
    progress, and errors are raised in the driver.
    """
    if ray.is_initialized():
        return
    if in_ray_job() or os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
        return
    ray.init(
        address="local",  # otherwise the address that a dead cluster has left makes the start hang
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )


def pool_size(requested: int) -> tuple[int, float, int]:
    """The number of worker processes for the cluster, and the resources of each.

    Args:
        requested: the user's number; 0: one per GPU if there are GPUs, otherwise one per core.

    Returns:
        The number of workers, the CPUs of each and the GPUs of each. The CPUs may be a fraction, so that half a core is
        left for the tasks that feed the workers.
    """
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 1.0), int(resources.get("GPU", 0))
    workers = requested or gpus or max(1, int(cpus))
    spare = max(cpus - 0.5, 0.5)
    # Rounded down: rounded up, many workers together would also take the spare half.
    share = math.floor(10_000 * spare / workers) / 10_000
    return workers, min(1.0, share), 1 if gpus >= workers else 0


def run_tasks(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0) -> Iterator[Result]:
    """Run a function on every item as a task of the cluster, at most ``workers`` at once (0: one per GPU, or per core).

    Yields:
        The results in the order of the items.
    """
    connect()
    workers, cpus, gpus = pool_size(workers)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    pending: list[ray.ObjectRef] = []
    for item in items:
        pending.append(remote.remote(item))
        # Twice the number of workers keeps all of them busy while results are taken in order, and bounds the memory.
        if len(pending) >= 2 * workers:
            yield ray.get(pending.pop(0))
    while pending:
        yield ray.get(pending.pop(0))
