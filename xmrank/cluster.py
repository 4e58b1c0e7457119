"""The Ray cluster that a stage runs on: the one of the job, the one that RAY_ADDRESS names, or one of its own."""

import logging
import os

import ray

from xmrank.paths import in_ray_job

OBJECT_STORE_BYTES = 512 * 1024**2
"""Of a cluster of our own: stages pass row numbers and paths, never tables of embeddings."""


def connect() -> None:
    """Join the cluster, or start one on this machine; does nothing when that has happened.

    A cluster of our own has no dashboard and listens on loopback. ``address="local"`` matters: without it, the address
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
    return workers, min(1.0, round(spare / workers, 2)), 1 if gpus >= workers else 0
