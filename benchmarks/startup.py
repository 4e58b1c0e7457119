"""How long a user waits for a command that has little or nothing to do.

    python benchmarks/startup.py --folder /data/startup
    python benchmarks/startup.py --folder /data/startup --code ../other-checkout

Each figure is the median of several runs, in seconds: of the clock, and of CPU over all processes of the command.
Prints one JSON line. The rows:

    finished     the second `make demo`: an experiment whose output is finished
    help         --help and a wrong flag of every job, as a script and as `xmrank JOB`: the slowest one, and its memory
    train        until the first trial of a training has a state or a result on disk, on a cluster of its own
    evaluate     the same until the first method is evaluated
    report       a report of 52 methods and 1,000 queries a direction

The demo and the other inputs are made in the folder by the first run, and stay there.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEMO = ["--preset", "demo"]
POLL_S = 0.05
TICKS = os.sysconf("SC_CLK_TCK")
"""Units of a second in /proc."""


def environment(code: Path, folder: Path) -> dict[str, str]:
    """What commands run in: the code of a checkout, files below the folder."""
    paths = {"PYTHONPATH": str(code), "XMRANK_HOME": str(folder), "XMRANK_CACHE": str(folder / "cache")}
    return {**os.environ, **paths, "OMP_NUM_THREADS": "1"}


def run_command(command: Sequence[str], variables: dict[str, str], statuses: Sequence[int] = (0,)) -> dict[str, float]:
    """Run a command to its end; wall and CPU seconds, and the peak memory in MB."""
    start = time.perf_counter()
    # Its own group: a signal to this process need not reach it.
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in statuses:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}\n{output.decode()}")
    return {
        "wall": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "mb": usage.ru_maxrss / 1024,
    }


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of every figure."""
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


def make_inputs(rows: Sequence[str], folder: Path, jobs: Path, variables: dict[str, str]) -> None:
    """Make what some rows need, unless it is there: the demo, a store with lists and rankers, a made-up evaluation."""
    if "finished" in rows and not (folder / "runs/demo/report/manifest.json").exists():
        run_command([sys.executable, str(jobs / "experiment.py"), *DEMO], variables)
    for name, needed in (("lists", {"train", "evaluate"}), ("made-up", {"report"})):
        if needed & set(rows) and not (folder / name).exists():
            run_command([sys.executable, "-c", MAKE[name], str(ROOT / "tests"), str(folder)], variables)
    if "evaluate" in rows and not (folder / "rankers/manifest.json").exists():
        run_command(train_command(jobs, folder, folder / "rankers"), variables)


PATHS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
folder = Path(sys.argv[2])
"""
MAKE = {
    "lists": PATHS
    + """
from conftest import make_store
from pipeline import mine_small
mine_small(make_store(folder / "store").directory, folder / "lists")
""",
    # With the refined first stage and 4 losses of 5 seeds in 2 directions, and the first stage in both: 52 methods.
    "made-up": PATHS
    + """
from report.synthetic import World, make_run
make_run(folder / "made-up", World(images=1000, seeds=(0, 1, 2, 3, 4), refined=True, row_group=150_000))
""",
}
"""Programs that use what the tests make; the paths of the tests and of the folder are their arguments."""


def train_command(jobs: Path, folder: Path, output: Path) -> list[str]:
    """Train two small rankers."""
    inputs = ["--embeddings", f"{folder}/store/embeddings", "--lists", f"{folder}/lists", "--output", str(output)]
    settings = ["--losses", "listnet", "--seeds", "0", "--epochs", "2", "--ranker.width", "16"]
    return [sys.executable, str(jobs / "train.py"), *inputs, *settings]


def evaluate_command(jobs: Path, folder: Path, output: Path) -> list[str]:
    """Evaluate two small rankers."""
    inputs = ["--embeddings", f"{folder}/store/embeddings", "--lists", f"{folder}/lists"]
    return [
        *(sys.executable, str(jobs / "evaluate.py"), *inputs),
        *("--rankers", f"{folder}/rankers", "--output", str(output)),
    ]


def report_command(jobs: Path, folder: Path, output: Path) -> list[str]:
    """The report of 52 methods."""
    stages = [
        word for name in ("embeddings", "rankers", "evaluation") for word in (f"--{name}", f"{folder}/made-up/{name}")
    ]
    return [sys.executable, str(jobs / "report.py"), *stages, "--output", str(output)]


def time_first_work(command: Sequence[str], variables: dict[str, str], found: Callable[[], bool]) -> dict[str, float]:
    """Wall and CPU seconds, of Ray's processes too, until a file of the first unit of work is there."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds: dict[int, float] = {}
    first: dict[str, float] = {}
    while process.poll() is None:
        if not first:
            # Of processes that have ended, the last look counts.
            seconds |= measure_family(process.pid)
            if found():
                first = {"wall": time.perf_counter() - start, "cpu": sum(seconds.values())}
        time.sleep(POLL_S)
    assert process.stdout
    if process.returncode or not first:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}\n{process.stdout.read().decode()}")
    return first


def measure_family(root: int) -> dict[int, float]:
    """CPU seconds of a process and all below it, by their ids; read from Linux's /proc."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            # The name, in brackets, may hold blanks.
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], seconds[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return {pid: seconds[pid] for pid in family if pid in seconds}


def measure_help(jobs: Path, variables: dict[str, str]) -> dict[str, Any]:
    """The slowest of all jobs, each as a script and as a command, with --help and with a wrong flag."""
    runs: dict[str, dict[str, float]] = {}
    for job in sorted(path.stem for path in jobs.glob("*.py")):
        for program in ([str(jobs / f"{job}.py")], ["-m", "xmrank", job]):
            runs[f"{job} --help"] = run_command([sys.executable, *program, "--help"], variables)
            runs[f"{job} wrong"] = run_command([sys.executable, *program, "--no-such-flag", "1"], variables, (2,))
    slowest = max(runs, key=lambda name: runs[name]["cpu"])
    most = {name: round(max(run[name] for run in runs.values()), 2) for name in ("wall", "cpu", "mb")}
    return {"slowest": slowest, "commands": 2 * len(runs), **most}


def measure_first(
    make: Callable[[Path, Path, Path], list[str]], jobs: Path, folder: Path, variables: dict[str, str], pattern: str
) -> dict[str, float]:
    """`time_first_work` of a command with an output of its own, which is removed afterwards."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    try:
        return time_first_work(make(jobs, folder, output), variables, lambda: any(output.glob(pattern)))
    finally:
        shutil.rmtree(output, ignore_errors=True)


def measure_report(jobs: Path, folder: Path, variables: dict[str, str]) -> dict[str, float]:
    """A new report."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    return run_command(report_command(jobs, folder, output), variables)


def main() -> None:
    """Measure all rows, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="keeps the inputs; 200 MB")
    parser.add_argument("--code", type=Path, default=ROOT, help="the checkout that is measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", nargs="+", default=["finished", "help", "train", "evaluate", "report"])
    arguments = parser.parse_args()
    folder, jobs = arguments.folder.resolve(), arguments.code.resolve() / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    variables = environment(arguments.code.resolve(), folder)
    make_inputs(arguments.rows, folder, jobs, variables)
    finished = [sys.executable, str(jobs / "experiment.py"), *DEMO]
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "finished": lambda: run_command(finished, variables),
        "train": lambda: measure_first(train_command, jobs, folder, variables, "trials/*/*.safetensors"),
        "evaluate": lambda: measure_first(evaluate_command, jobs, folder, variables, "work/*.summary"),
        "report": lambda: measure_report(jobs, folder, variables),
    }
    rows: dict[str, Any] = {}
    for name in arguments.rows:
        if name == "help":
            rows[name] = measure_help(jobs, variables)
            continue
        # Bytecode and files of the system's cache come with the first run, which is left out.
        runs = [measures[name]() for _ in range(arguments.repeats + 1)][1:]
        rows[name] = medians(runs)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
