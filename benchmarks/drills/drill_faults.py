"""The faults: what happens to a run, and how it is mended before the same command runs again."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.drills.drill_scene import Scene
from benchmarks.drills.drilled_stages import DrilledStage
from benchmarks.drills.servers import free_port
from benchmarks.drills.simulated_cluster import SMALLEST_STORE, STORE

DISK_BYTES = 256 << 20
AWAY_S = 5.0
"""How long an object store is away."""
REFUSED_S = 60.0
"""How long a second run may take to be refused."""


def nothing(scene: Scene) -> None:
    """For a fault without this step."""


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        title: for the table.
        prepare: before the job starts.
        inject: when some of the pieces are done.
        mend: after the job's end, before the same command runs again.
        hits: whether it can hit a stage.
        store: bytes of the object stores.
        remote: the output is in an object store.
    """

    title: str
    inject: Callable[[Scene], None] = nothing
    prepare: Callable[[Scene], None] = nothing
    mend: Callable[[Scene], None] = nothing
    hits: Callable[[DrilledStage], bool] = lambda _: True
    store: int = STORE
    remote: bool = False


def lose_node(scene: Scene) -> None:
    """A node fails. Where the number of workers is fixed, another one joins."""
    scene.cluster.lose_node()
    if scene.stage.name == "train_encoder":
        # Not in a thread of its own: Ray sets signal handlers when it starts a node.
        time.sleep(AWAY_S)
        scene.cluster.add_node()


def kill_worker(scene: Scene) -> None:
    """A process is killed, as by the system when memory runs out."""
    scene.notes["killed"] = scene.cluster.kill_worker()


def kill_driver(scene: Scene) -> None:
    """The driver is killed."""
    assert scene.job
    scene.job.send_signal(signal.SIGKILL)


def terminate_driver(scene: Scene) -> None:
    """The driver gets SIGTERM, as from `ray job stop` and Kubernetes."""
    assert scene.job
    scene.job.send_signal(signal.SIGTERM)


def lose_head(scene: Scene) -> None:
    """All nodes are gone; the driver's process stays, and must notice."""
    scene.cluster.stop()


def fill_stores(scene: Scene) -> None:
    """Another job fills the object stores."""
    scene.kept.append(scene.cluster.fill_stores())


def empty_stores(scene: Scene) -> None:
    """That job ends."""
    for process in scene.kept:
        process.kill()
        process.wait()


def mount_disk(scene: Scene) -> None:
    """The output lies on a small disk."""
    disk = Path(scene.output).parent
    disk.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk], check=True)


def fill_disk(scene: Scene) -> None:
    """Something else takes all that is free there."""
    # Without a buffer, whose rest would have to be written when the file is closed.
    with (Path(scene.output).parent / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            while write_block(file, size):
                pass


def write_block(file: IO[bytes], size: int) -> bool:
    """Write a block of zeros; False where the disk is full."""
    try:
        return file.write(bytes(size)) == size
    except OSError:
        return False


def empty_disk(scene: Scene) -> None:
    """It gives it back."""
    (Path(scene.output).parent / "ballast").unlink(missing_ok=True)


def name_no_server(scene: Scene) -> None:
    """Nobody listens where MLflow's server should be."""
    scene.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{free_port()}"


def name_server(scene: Scene) -> None:
    """MLflow's server answers."""
    scene.environment["MLFLOW_TRACKING_URI"] = scene.servers.tracking_uri()


def lose_server(scene: Scene) -> None:
    """It goes away."""
    assert scene.servers.gate
    scene.servers.gate.close()


def slow_server(scene: Scene) -> None:
    """It needs half a second for whatever it is sent, and for each answer."""
    assert scene.servers.gate
    scene.servers.gate.delay = 0.5


def lose_storage(scene: Scene) -> None:
    """The object store refuses connections for some seconds."""
    scene.servers.store.stop()
    threading.Timer(AWAY_S, scene.servers.store.start).start()


def slow_storage(scene: Scene) -> None:
    """Every request takes 0.2 s."""
    scene.servers.store.delay = 0.2


def mend_storage(scene: Scene) -> None:
    """The object store answers as before."""
    scene.servers.store.delay = 0.0
    while not scene.servers.store.thread.is_alive():
        time.sleep(0.1)


def start_second(scene: Scene) -> None:
    """The same command is started a second time."""
    log = scene.home / "log-of-the-second"
    started = time.monotonic()
    second = scene.start(log)
    try:
        scene.notes["second_status"] = second.wait(REFUSED_S)
    except subprocess.TimeoutExpired:
        second.kill()
    scene.notes["second_seconds"] = round(time.monotonic() - started, 1)
    scene.notes["second_said"] = log.read_text().strip().splitlines()[-3:]


def can_mount(_: DrilledStage) -> bool:
    """Whether a small disk can be made here."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


FAULTS = {
    "node": Fault("a node lost", lose_node, hits=lambda stage: stage.on_ray),
    "worker": Fault("a worker process killed", kill_worker, hits=lambda stage: stage.on_ray),
    "driver": Fault("the driver killed", kill_driver),
    "sigterm": Fault("SIGTERM to the driver", terminate_driver),
    "head": Fault("the whole cluster lost", lose_head, hits=lambda stage: stage.on_ray),
    "objects": Fault(
        "object stores full",
        prepare=fill_stores,
        mend=empty_stores,
        hits=lambda stage: stage.on_ray,
        store=SMALLEST_STORE,
    ),
    "disk": Fault("disk full", fill_disk, mount_disk, empty_disk, hits=can_mount),
    "no-tracking": Fault("no tracking server", prepare=name_no_server, hits=lambda stage: stage.tracked),
    "tracking-away": Fault(
        "tracking server goes away", lose_server, name_server, name_server, hits=lambda stage: stage.tracked
    ),
    "tracking-slow": Fault(
        "tracking server slow (1 s)", slow_server, name_server, name_server, hits=lambda stage: stage.tracked
    ),
    "storage-away": Fault("object storage away for 5 s", lose_storage, mend=mend_storage, remote=True),
    "storage-slow": Fault("object storage slow (0.2 s)", slow_storage, mend=mend_storage, remote=True),
    "two": Fault("two runs in one directory", start_second),
}
