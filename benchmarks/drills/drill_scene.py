"""One run of a stage that a fault comes upon: its processes, its folders, and what was done twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.drills.drilled_stages import DrilledStage
from benchmarks.drills.servers import Servers
from benchmarks.drills.simulated_cluster import SimulatedCluster

ROOT = Path(__file__).parents[2]
LOOK_S = 0.02


class PieceWatcher(threading.Thread):
    """Notes every finished piece below a folder, and how often it was written.

    A piece is a record in `work/pieces`, a file of results for a run that keeps none. The encoder's training keeps one
    checkpoint, which is written after every epoch.
    """

    def __init__(self, output: Path) -> None:
        super().__init__(daemon=True)
        self.output = output
        self.versions: dict[str, set[tuple[int, int]]] = defaultdict(set)
        self.ending = threading.Event()

    def run(self) -> None:
        """Look until the end."""
        while not self.ending.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Note what is there now."""
        for folder, _, names in os.walk(self.output):
            for name in names:
                path = Path(folder, name)
                if is_piece(path):
                    try:
                        status = path.stat()
                    except OSError:
                        continue
                    self.versions[str(path.relative_to(self.output))].add((status.st_ino, status.st_mtime_ns))

    def stop(self) -> None:
        """Look a last time."""
        self.ending.set()
        self.join()

    def count(self, part: str = "") -> int:
        """The number of pieces so far whose path has this in it; an epoch of the encoder counts as one."""
        found = {name: versions for name, versions in list(self.versions.items()) if part in name}
        return sum(len(versions) if is_checkpoint(name) else 1 for name, versions in found.items())

    def count_twice(self, epochs: int) -> int:
        """How many pieces were written again after they were finished."""
        return sum(
            max(0, len(versions) - (epochs if is_checkpoint(name) else 1)) for name, versions in self.versions.items()
        )


def is_piece(path: Path) -> bool:
    """Whether a file says that a piece is done."""
    return (path.parent.name == "pieces" and path.suffix == ".json") or is_checkpoint(path.name)


def is_checkpoint(name: str) -> bool:
    """Whether a path is that of the encoder's checkpoint."""
    return name.endswith("checkpoint.safetensors")


@dataclass
class Scene:
    """What a fault may touch.

    Attributes:
        stage: that is run.
        home: folder of the run; XMRANK_HOME.
        output: of the stage, a folder or a URI.
        outputs: of the stages before, by name; `data` is the folder of the generated scenes.
        cluster: which it runs on.
        servers: MLflow's and S3's.
        environment: what the job's has beside this process's.
        notes: what a fault found out, for the result.
        kept: processes that a fault has started.
        patience: seconds after which a job is said to hang.
        job: the process of the last command.
    """

    stage: DrilledStage
    home: Path
    output: Path | str
    outputs: dict[str, Path | str]
    cluster: SimulatedCluster
    servers: Servers | None
    environment: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    kept: list[subprocess.Popen] = field(default_factory=list)
    patience: float = 240.0
    job: subprocess.Popen | None = None

    @property
    def log(self) -> Path:
        """What the jobs have printed."""
        return self.home / "log"

    def start(self, log: Path | None = None) -> subprocess.Popen:
        """Start the command."""
        words = self.stage.command(self.outputs, self.output)
        own = {"RAY_ADDRESS": self.cluster.address, "XMRANK_HOME": str(self.home)} | self.environment
        with (log or self.log).open("a") as file:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "jobs" / f"{self.stage.name}.py"), *words],
                env=os.environ | own,
                stdout=file,
                stderr=file,
                cwd=self.home,
            )

    def fingerprint(self) -> str | None:
        """Of the finished stage; None where it is not finished."""
        from xmrank.runtime.paths import resolve

        try:
            text = (resolve(f"{self.output}") / self.stage.manifest / "manifest.json").read_text()
        except OSError:
            return None
        return str(json.loads(text)["fingerprint"])

    def wait(self) -> int | None:
        """The job's exit status; None where it hung and was killed."""
        assert self.job
        try:
            return self.job.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.notes["hung"] = True
            self.job.send_signal(signal.SIGKILL)
            self.job.wait()
            return None

    def left_processes(self) -> list[str]:
        """Workers that are still busy some time after the job's end."""
        end = time.monotonic() + 15
        while self.cluster.cluster and time.monotonic() < end:
            if not self.cluster.busy():
                return []
            time.sleep(0.2)
        return [describe(process) for process in self.cluster.busy()] if self.cluster.cluster else []


def describe(process: psutil.Process) -> str:
    """A process in words."""
    try:
        return " ".join(process.cmdline())[:80]
    except psutil.NoSuchProcess:
        return "gone"
