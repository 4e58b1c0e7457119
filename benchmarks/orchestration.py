"""What `supervised` and `baselines` cost beside the work itself: processes, imports, Ray, files, MLflow, the report.

    python benchmarks/orchestration.py supervised --data wikipedia=data/features/wikipedia --methods lcm dscmr clip4cmr
    python benchmarks/orchestration.py baselines --embeddings runs/demo/embeddings --lists runs/demo/lists

The flags are those of the job. It runs twice: once as a user runs it, whose time and CPU time over all processes are
measured; and once in one process without Ray, where only the functions that do the work are timed: a fit, a run of a
method, an evaluation. Prints one JSON line. Orchestration's share of the CPU time is what the work does not take of it;
of the time, what the work, divided evenly among the cores, does not take.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from startup import measure_family

ROOT = Path(__file__).parents[1]
POLL_S = 0.1


def run_job(job: str, flags: list[str], output: Path) -> dict[str, float]:
    """Seconds of the job as a user runs it, and CPU seconds of all its processes."""
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags, "--output", str(output)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seconds: dict[int, float] = {}
    while process.poll() is None:
        # Of processes that have ended, the last look counts.
        seconds |= measure_family(process.pid)
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}")
    return {"wall": time.perf_counter() - started, "cpu": sum(seconds.values())}


class WorkClock:
    """Adds up the CPU seconds of the functions that do the work."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def call(*arguments: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.process_time() - started

        return call

    def run_tasks(self, function: Callable[[Any], Any], items: Iterable[Any], _: int = 0) -> Iterator[Any]:
        """Stands for the tasks of a cluster."""
        return map(self.timed(function), items)


def measure_work(job: str, flags: list[str], output: Path) -> float:
    """CPU seconds of the work, in this process."""
    import torch
    from one_worker import one_worker

    from xmrank.baselines import fitting
    from xmrank.config.jobs import JOBS
    from xmrank.config.parsing import parse_config
    from xmrank.protocols import evaluation_run
    from xmrank.supervised import stage as supervised_stage

    torch.set_num_threads(1)
    clock = WorkClock()
    config = parse_config(JOBS[job].load_config(), [*flags, "--output", str(output)], name=job)
    with one_worker(
        mock.patch.object(fitting, "fit_one", clock.timed(fitting.fit_one)),
        mock.patch.object(evaluation_run, "run_tasks", clock.run_tasks),
        mock.patch.object(supervised_stage, "run_tasks", clock.run_tasks),
    ):
        JOBS[job].load_stage()(config)
    return clock.seconds


def main() -> None:
    """Measure one job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("supervised", "baselines"))
    parser.add_argument("--only-work", type=Path, help=argparse.SUPPRESS)
    own, flags = parser.parse_known_args()
    if own.only_work:
        print(json.dumps(measure_work(own.job, flags, own.only_work)))
        return
    # Arrays come from the same allocator settings and threads in both runs.
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    with tempfile.TemporaryDirectory() as folder:
        job = run_job(own.job, flags, Path(folder, "job"))
        command = [sys.executable, __file__, own.job, "--only-work", str(Path(folder, "work")), *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        work = float(done.stdout.splitlines()[-1])
    cores = os.cpu_count() or 1
    figures = {**job, "work": work}
    shares = {"share of CPU time": 1 - work / job["cpu"], "share of time": 1 - work / cores / job["wall"]}
    rounded = {name: round(value, 1) for name, value in figures.items()}
    print(json.dumps({own.job: rounded | {name: round(value, 3) for name, value in shares.items()}}))


if __name__ == "__main__":
    main()
