"""The Ray cluster that a stage runs on: that of the job, the one in RAY_ADDRESS, or a local one."""

import atexit
import contextlib
import logging
import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray._private.ray_constants import PROCESS_TYPE_RAYLET as RAYLET
from ray.util import placement_group, remove_placement_group

from xmrank.runtime.device import CPU, CUDA, name_device, requested_device
from xmrank.runtime.endings import kept_handlers
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.head_watch import watch_head
from xmrank.runtime.log_levels import drop_notice, is_verbose
from xmrank.runtime.paths import is_given_cluster
from xmrank.runtime.progress import show_activity

Item = TypeVar("Item")
Result = TypeVar("Result")

AUTH_MODE = "RAY_AUTH_MODE"
TOKEN_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL
OBJECT_STORE_BYTES = 512 * 1024**2
"""Size of the object store of a local cluster. It is small, since stages pass row numbers and paths, not arrays."""
WAIT_FOR = "XMRANK_WAIT_FOR"
WAIT_S = 1800.0
"""How long a job waits for nodes that an autoscaler starts."""
UNITS = 10_000
"""Ray counts resources in ten-thousandths."""
PROMPT_S = 2.0
"""How long resources that are there may take to be found."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""Settings of glibc's allocator for workers: they keep up to 1 GiB that is free. By default a large array's memory goes
back to the system with the array, and a fifth of a training step went into getting it again (page faults)."""


def connect() -> None:
    """Connect to the cluster, or start one on this machine; does nothing if Ray is initialised.

    The output of workers goes to Ray's log folder only, unless the job is verbose: jobs show their own progress, and
    errors are raised in the driver. A local cluster has no dashboard. Ray listens on all interfaces, also for a local
    cluster: what keeps others out is Ray's token, without which no local cluster is started.

    Raises:
        ConfigError: RAY_AUTH_MODE turns the token off, and there is no cluster to connect to; XMRANK_WAIT_FOR is wrong;
            with ``--device cuda``, the cluster has no GPU.
    """
    if ray.is_initialized():
        return
    show_activity("Ray")
    if not is_verbose():
        shorten_messages()
    if is_given_cluster():
        with kept_handlers(), drop_notice():
            ray.init(logging_level=logging.INFO if is_verbose() else logging.WARNING, log_to_driver=is_verbose())
        watch_head(ray.get_runtime_context().gcs_address)
        wait_for_resources(os.environ.get(WAIT_FOR, ""), WAIT_S)
        refuse_missing_gpus()
        return
    require_token()
    with kept_handlers(), drop_notice():
        try:
            start_local_cluster()
        except Exception as error:
            if not is_timeout(error):
                raise
            # A busy machine: what was started goes, and the second start finds the files in memory.
            ray.shutdown()
            start_local_cluster()
    refuse_missing_gpus()


def shorten_messages() -> None:
    """Show of what Ray tells every driver about lost nodes and processes the first sentence, on standard error.

    It comes as some twenty lines of a node's log on standard output, whatever the level. Where one task fails and ends
    the job, the errors of others, for which nobody waits any more, would come with tracebacks: they are not shown.
    """
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")

    def print_first_sentence(message: Mapping[str, Any], ignore_prefix: bool) -> None:  # noqa: ARG001 (Ray's names)
        text = " ".join(str(line) for line in message["lines"])
        print(f"ray: {text.splitlines()[0].partition('. ')[0]}", file=sys.stderr, flush=True)

    ray._private.worker.print_to_stdstream = print_first_sentence


def start_local_cluster() -> None:
    """Start Ray on this machine."""
    # Its processes inherit these; the allocator reads them when a process starts.
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    ray.init(
        address="local",  # otherwise the address that a dead cluster has left makes the start hang
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.INFO if is_verbose() else logging.ERROR,
        log_to_driver=False,
    )
    shorten_end(ray._private.worker._global_node)
    # Before Ray's own, which waits half a second for messages that come from nowhere here.
    atexit.register(ray.shutdown)


def shorten_end(node: Any) -> None:
    """End Ray's processes on this node at once, but for the raylet, which ends the workers.

    Each has a second to end by itself otherwise, one after another, and none has anything to save.
    """
    end_process = node._kill_process_type

    def end_at_once(kind: str, allow_graceful: bool = False, **settings: Any) -> None:
        end_process(kind, allow_graceful=allow_graceful and kind == RAYLET, **settings)

    node._kill_process_type = end_at_once


def refuse_missing_gpus() -> None:
    """Raise ConfigError where ``--device cuda`` is wanted and the cluster has no GPU."""
    if requested_device() == CUDA and not count_gpus():
        raise ConfigError(f"--device {CUDA}: the cluster has {describe_resources()}")


def count_gpus() -> float:
    """How many GPUs of the cluster work may use: none with ``--device cpu``."""
    return 0.0 if requested_device() == CPU else float(ray.cluster_resources().get("GPU", 0.0))


def is_timeout(error: Exception) -> bool:
    """Whether the start of Ray took too long; Ray raises errors of several types."""
    return isinstance(error, TimeoutError) or "timed out" in str(error).lower()


def require_token() -> None:
    """Refuse a cluster of our own without a token: whoever reaches its ports could run code as this user.

    A token that Ray would make is made here, in a file that only this user reads.

    Raises:
        ConfigError: RAY_AUTH_MODE is set to something else than ``token``.
    """
    mode = os.environ.get(AUTH_MODE)
    if mode is not None and mode.lower() != "token":
        raise ConfigError(
            f"{AUTH_MODE}={mode}: expected token, or not set: other machines can reach the ports of a local cluster"
        )
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    # Ray makes this file readable for all users of the machine.
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), os.fdopen(os.open(path, TOKEN_FLAGS, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
        path.chmod(0o600)


def pool_size(requested: int, *, on_gpus: bool = True) -> tuple[int, float, int]:
    """The number of worker processes for the cluster, and the resources of each.

    Args:
        requested: the user's number; 0: one per GPU if there are GPUs, otherwise one per core.
        on_gpus: whether the work has a use for GPUs.

    Returns:
        The number of workers, the CPUs of each and the GPUs of each. The CPUs may be a fraction, so that half a core is
        left for the tasks that feed the workers.

    Raises:
        ConfigError: with ``--device cuda``, more workers than GPUs.
    """
    cpus, gpus = ray.cluster_resources().get("CPU", 1.0), int(count_gpus()) if on_gpus else 0
    workers = requested or gpus or max(1, int(cpus))
    if on_gpus and workers > gpus and requested_device() == CUDA:
        raise ConfigError(f"--workers {workers}: expected at most {gpus} with --device {CUDA}, one for each GPU")
    spare = max(cpus - 0.5, 0.5)
    # Rounded down: rounded up, many workers together would also take the spare half.
    share = max(1, math.floor(UNITS * spare / workers)) / UNITS
    each = 1 if gpus >= workers else 0
    return workers, fit_share({"CPU": min(1.0, share), "GPU": each}, "CPU", workers), each


def fit_share(bundle: Mapping[str, float], kind: str, workers: int) -> float:
    """How much of one kind of resource a worker holds, so that all workers find room: none can be on two nodes.

    Args:
        bundle: what a worker would hold. An equal part of all cores may be too much: four workers, three nodes of one.
        kind: ``CPU`` or ``GPU``, of which it holds less where that is necessary.
        workers: how many there are.
    """
    share, others = bundle[kind], {name: held for name, held in bundle.items() if held and name != kind}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    while True:
        counts = [count_bundles(node, {**others, kind: share}) for node in nodes]
        # With how much a node would have room for one more.
        lower = [
            math.floor(UNITS * node.get(kind, 0) / (count + 1)) / UNITS
            for node, count in zip(nodes, counts, strict=True)
            if not others or count_bundles(node, others) > count
        ]
        if sum(counts) >= workers or max(lower, default=0) <= 0:
            return share
        share = max(lower)


def count_bundles(node: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """How many workers, each of which holds ``bundle``, a node has room for if nothing else used it."""
    # In whole numbers: 2 // 0.1 is 19.
    return min(round(UNITS * node.get(kind, 0)) // round(UNITS * held) for kind, held in bundle.items())


def wait_for_resources(wanted: str, timeout: float) -> None:
    """Wait until the cluster has what a job needs; an autoscaler starts nodes for it.

    Stages count their workers on the cluster as it is. A cluster that starts without workers would stay so.

    Args:
        wanted: ``GPU:4``, ``CPU:64``, or both with a comma; empty: nothing.
        timeout: seconds; after that, the stages go on with what there is.

    Raises:
        ConfigError: something else is written there.
    """
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    if any(not re.fullmatch(r"(CPU|GPU):[1-9]\d*", part) for part in parts):
        raise ConfigError(f"{WAIT_FOR}={wanted}: expected GPU:4, CPU:64 or both with a comma")
    if not parts:
        return
    counts = {kind: int(count) for kind, _, count in (part.partition(":") for part in parts)}
    # Reserved all at once and set free again. What a driver reserves is free when it dies, too.
    group = placement_group([{kind: 1} for kind, count in counts.items() for _ in range(count)])
    try:
        if not group.wait(PROMPT_S):
            text = f"waiting up to {timeout:.0f} s for {wanted} ({WAIT_FOR}), the cluster has {describe_resources()}"
            print(text, file=sys.stderr, flush=True)
            group.wait(timeout)
            print(f"going on, the cluster has {describe_resources()}", file=sys.stderr, flush=True)
    finally:
        remove_placement_group(group)


def describe_resources() -> str:
    """What the cluster has now, for messages: "4 CPUs and 1 GPU"."""
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    text = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return f"{text} and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else text


def run_tasks(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0, *, on_gpus: bool = True
) -> Iterator[Result]:
    """Run a function on every item as a task of the cluster, at most ``workers`` at once (0: one per GPU, or per core).

    Args:
        function: of a module, so that worker processes can import it.
        items: its arguments.
        workers: most tasks at once.
        on_gpus: whether the function has a use for a GPU.

    Yields:
        The results in the order of the items.
    """
    connect()
    workers, cpus, gpus = pool_size(workers, on_gpus=on_gpus)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    show_activity("the results of tasks", workers, name_device(gpus))
    pending: list[ray.ObjectRef] = []
    for item in items:
        pending.append(remote.remote(item))
        # Twice the number of workers keeps all of them busy while results are taken in order, and bounds the memory.
        if len(pending) >= 2 * workers:
            yield ray.get(pending.pop(0))
    while pending:
        yield ray.get(pending.pop(0))


def silence_ray_data() -> None:
    """Send Ray Data's messages to its log file only: we show progress and failures ourselves.

    Its metrics go to the dashboard all the same.
    """
    import ray.data  # slow, and only embed and rank use it

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if is_verbose():
        return
    # Its file handler stays.
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
