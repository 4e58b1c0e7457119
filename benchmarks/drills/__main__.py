"""Drills: every stage on three simulated nodes, a fault while it works, and what comes of it.

    PYTHONPATH=.:tests python -m benchmarks.drills --folder /data/drills
    PYTHONPATH=.:tests python -m benchmarks.drills --folder /data/drills --stages train tune --faults node driver

A drill starts a stage as a job, waits until some of its pieces are done and not all, and lets one fault happen. Where
the job ends without a result, the same command runs again. The fingerprint must be that of an undisturbed run, and no
piece that was finished may be made again. Prints a JSON line for each drill and a table at the end. What is in the
folder is not run again. Simulated nodes are processes of this machine: they share its disk, memory and clock.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray  # noqa: F401 (psutil comes with it)

from benchmarks.drills.drill_faults import FAULTS, Fault, mount_disk
from benchmarks.drills.drill_scene import ROOT, PieceWatcher, Scene
from benchmarks.drills.drill_table import make_table
from benchmarks.drills.drilled_stages import STAGES, DrilledStage
from benchmarks.drills.servers import Servers
from benchmarks.drills.simulated_cluster import SimulatedCluster
from xmrank.tracking.delivery import list_pending

EPOCHS = 8
"""Of the encoder's training."""
NO_PIECES_S = 4.0
"""When a fault comes to a stage that makes no pieces: seconds after its start."""


class Drills:
    """All drills of a folder."""

    def __init__(self, folder: Path, patience: float) -> None:
        self.folder, self.patience = folder, patience
        self.scene: Scene | None = None
        self.cluster = SimulatedCluster()
        self.servers = Servers(folder)
        reference = folder / "reference"
        self.outputs: dict[str, Path | str] = {name: reference / name / "out" for name in STAGES}
        self.outputs["data"] = folder / "data"

    def make_scene(self, stage: DrilledStage, home: Path, output: Path | str | None = None) -> Scene:
        """A run in a new folder, with a tracking file whose schema is there already."""
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        empty = self.folder / "mlflow.db"
        if not empty.exists():
            from mlflow.tracking import MlflowClient

            MlflowClient(f"sqlite:///{empty}").search_experiments()
        shutil.copy(empty, home)
        output = output or home / "out"
        self.scene = Scene(stage, home, output, self.outputs, self.cluster, self.servers, patience=self.patience)
        return self.scene

    def run_reference(self, stage: DrilledStage) -> dict[str, Any]:
        """The undisturbed run of a stage, made once: its fingerprint, pieces and seconds."""
        home = self.folder / "reference" / stage.name
        record = home / "reference.json"
        if record.exists():
            return dict(json.loads(record.read_text()))
        for name in STAGES:
            # What the command reads is made first.
            if f"{{{name}}}" in stage.flags:
                self.run_reference(STAGES[name])
        self.cluster.repair()
        scene = self.make_scene(stage, home)
        watcher = PieceWatcher(home / "out")
        watcher.start()
        started = time.monotonic()
        scene.job = scene.start()
        status = scene.wait()
        seconds = time.monotonic() - started
        watcher.stop()
        if status != 0:
            raise SystemExit(f"the undisturbed run of {stage.name} failed:\n{scene.log.read_text()}")
        result = {"fingerprint": scene.fingerprint(), "pieces": watcher.count(), "seconds": round(seconds, 1)}
        record.write_text(json.dumps(result))
        if stage.name == "embed":
            self.write_queries()
        return result

    def write_queries(self) -> None:
        """Captions as queries of `rank`."""
        import pyarrow.parquet as pq

        texts = pq.read_table(Path(self.outputs["embed"]) / "text.parquet")
        column = "caption_id" if "text" not in texts.column_names else "text"
        lines = [f"{value} {number}" for number, value in enumerate(texts[column].to_pylist())]
        (self.folder / "data" / "queries.txt").write_text("\n".join((lines * 2)[:2560]))

    def drill(self, stage: DrilledStage, name: str, fault: Fault) -> dict[str, Any]:
        """One drill; returns its result."""
        expected = self.run_reference(stage)
        self.cluster.repair(fault.store)
        home = self.folder / "drills" / f"{stage.name}-{name}"
        subprocess.run(["umount", "-q", home / "disk"], check=False, capture_output=True)
        output: Path | str = f"{self.servers.store.make_bucket()}/out" if fault.remote else home / "out"
        if fault.prepare is mount_disk:
            output = home / "disk" / "out"
        scene = self.make_scene(stage, home, output)
        fault.prepare(scene)
        watcher = self.watch(scene)
        started = time.monotonic()
        scene.job = scene.start()
        self.wait_until_at_work(scene, watcher, expected["pieces"])
        before, injected = watcher.count(), time.monotonic()
        running = scene.job.poll() is None
        fault.inject(scene)
        status = scene.wait()
        ended = time.monotonic() - injected
        statuses = [status]
        first_log = scene.log.read_text()
        left = scene.left_processes()
        fault.mend(scene)
        while scene.fingerprint() is None and len(statuses) < 3:
            self.cluster.repair(fault.store)
            # Without this, a fault that was prepared would come again.
            if name == "no-tracking":
                scene.environment.clear()
            scene.job = scene.start()
            statuses.append(scene.wait())
        total = time.monotonic() - started
        if name.startswith("tracking"):
            scene.notes |= self.deliver(scene)
        watcher.stop()
        text = scene.log.read_text()
        result = {
            "stage": stage.name,
            "fault": name,
            "same": scene.fingerprint() == expected["fingerprint"],
            "statuses": statuses,
            "running": running,
            "pieces": expected["pieces"],
            "pieces_at_fault": before,
            "pieces_twice": watcher.count_twice(EPOCHS) if not fault.remote else None,
            "ended_after": round(ended, 1),
            "seconds": round(total, 1),
            "undisturbed": expected["seconds"],
            "traceback": "Traceback" in text,
            "left": left,
            "said": first_log.strip().splitlines()[-3:],
            **scene.notes,
        }
        subprocess.run(["umount", "-q", home / "disk"], check=False, capture_output=True)
        return result

    def watch(self, scene: Scene) -> PieceWatcher:
        """Watch for pieces; those in an object store by the requests that write them."""
        if isinstance(scene.output, str):
            scene.servers.store.requests.clear()
            watcher: PieceWatcher = RequestWatcher(scene.servers.store.requests)
        else:
            watcher = PieceWatcher(scene.output)
        watcher.start()
        return watcher

    def wait_until_at_work(self, scene: Scene, watcher: PieceWatcher, pieces: int) -> None:
        """Until a share of the pieces is done."""
        assert scene.job
        wanted = max(1, int(scene.stage.share * pieces))
        end = time.monotonic() + (self.patience if pieces else NO_PIECES_S)
        while scene.job.poll() is None and time.monotonic() < end:
            if pieces and watcher.count(scene.stage.begins) >= wanted:
                return
            time.sleep(0.01)

    def deliver(self, scene: Scene) -> dict[str, Any]:
        """Run `xmrank sync`; says whether records are left that the server did not get."""
        command = [sys.executable, "-m", "xmrank", "sync", str(scene.output)]
        status = subprocess.run(command, env=os.environ | scene.environment, check=False, cwd=scene.home).returncode
        return {"sync_status": status, "journals_left": len(list_pending(Path(scene.output)))}

    def close(self) -> None:
        """End everything that was started."""
        if self.scene and self.scene.job:
            self.scene.job.kill()
        self.cluster.stop()
        self.servers.stop()


class RequestWatcher(PieceWatcher):
    """Notes pieces by the requests that write them into an object store."""

    def __init__(self, requests: list[str]) -> None:
        super().__init__(Path())
        self.requests = requests

    def look(self) -> None:
        """Note what was written until now."""
        for number, request in enumerate(list(self.requests)):
            method, _, path = request.partition(" ")
            if method == "PUT" and ("/pieces/" in path or path.endswith("checkpoint.safetensors")):
                self.versions[path].add((number, 0))


def main() -> None:
    """Run the drills that are chosen and not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="keeps inputs, runs and results")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=FAULTS)
    parser.add_argument("--patience", type=float, default=240.0, help="seconds after which a job is said to hang")
    parser.add_argument("--again", action="store_true", help="run the chosen drills again")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = given.folder.resolve()
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    # Also for the processes of Ray, which inherit it.
    os.environ |= {"PYTHONPATH": paths, "XMRANK_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (so is its name)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    drills = Drills(folder, given.patience)
    try:
        # Faults outside, since those that need another cluster then share it.
        for name in given.faults:
            for stage in map(STAGES.__getitem__, given.stages):
                record = results / f"{stage.name}-{name}.json"
                if FAULTS[name].hits(stage) and (given.again or not record.exists()):
                    record.write_text(json.dumps(drills.drill(stage, name, FAULTS[name])))
                if record.exists():
                    print(record.read_text(), flush=True)
    finally:
        drills.close()
    print(make_table([json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]))


if __name__ == "__main__":
    main()
