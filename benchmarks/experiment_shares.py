"""How long an experiment takes from its command to its report, and which share of it each stage has.

    python benchmarks/experiment_shares.py --preset demo
    python benchmarks/experiment_shares.py --preset strong --train.seeds 0 1 --embed.import-images I.npy ...

The flags are those of the experiment. It runs in an empty folder, several times with --repeats. Prints one JSON line:
the median seconds of the whole and of each stage, evaluation's share, and what re-ranking of one query takes, alone and
in a batch (milliseconds, median of the losses, one thread).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from xmrank.runtime.manifest import MANIFEST

ROOT = Path(__file__).parents[1]
STAGES = ("embeddings", "lists", "rankers", "evaluation", "report")
"""Folders of the stages, in their order."""


def run_experiment(flags: list[str], output: Path) -> dict[str, Any]:
    """Seconds of an experiment, by stage, and its milliseconds a query.

    A stage begins when the one before has finished; the first one begins with the command, imports included.
    """
    began, started = time.time(), time.perf_counter()
    command = [sys.executable, str(ROOT / "jobs" / "experiment.py"), *flags, "--output", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole, seconds, before = time.perf_counter() - started, {}, began
    for stage in STAGES:
        # The manifest is a stage's last file.
        end = (output / stage / MANIFEST).stat().st_mtime
        seconds[stage], before = end - before, end
    return {"seconds": {"whole": whole, **seconds, "end": began + whole - before}, "ms": read_times(output)}


def read_times(output: Path) -> dict[str, float]:
    """Milliseconds that re-ranking takes: ``i2t lists alone`` and the like."""
    times: dict[str, list[float]] = {}
    for row in json.loads((output / "evaluation" / "timing.json").read_text())["rows"]:
        for how in ("alone", "batched"):
            times.setdefault(f"{row['direction']} {row['protocol']} {how}", []).append(row[f"{how}_ms"])
    return {name: statistics.median(values) for name, values in times.items()}


def take_medians(parts: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the runs."""
    return {name: round(statistics.median(part[name] for part in parts), 2) for name in parts[0]}


def main() -> None:
    """Measure with the flags of the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    own, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [run_experiment(flags, Path(folder) / str(number)) for number in range(own.repeats)]
    seconds = take_medians([run["seconds"] for run in runs])
    share = round(seconds["evaluation"] / seconds["whole"], 3)
    print(json.dumps({"seconds": seconds, "evaluation": share, "ms": take_medians([run["ms"] for run in runs])}))


if __name__ == "__main__":
    main()
