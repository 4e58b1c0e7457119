"""Several simulated nodes: training over nodes, fewer nodes on the way, and where points and tasks run.

    PYTHONPATH=.:tests python benchmarks/multi_node.py --folder /data/nodes

Nodes of one and two CPUs on this machine, each a raylet of its own. The same rankers are trained by one process; by
groups of three processes on two nodes (DDP with gloo, 1,001 lists in batches of 32, so that shares differ); by groups
of two on three nodes, of which one is lost on the way; and by a group of three on three nodes, of which one is lost.
Then points of a search, fits and evaluations run on three nodes, and points on nodes that declare GPUs.

Prints one JSON line: which nodes worked, how many processes there were after each start, seconds from the loss of a
node to the next start, and how far figures are from those of one process: of every epoch, and of the evaluation.
"""

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[1]
STORE, LISTS = "--embeddings store/embeddings", "--lists lists"
RANKERS = (
    f"{STORE} {LISTS} --losses listnet lambdarank --seeds 0 --epochs 6 --batch-size 32 --ranker.width 16 "
    "--ranker.layers 1 --ranker.heads 2 --ranker.feed-forward 16 --ranker.dropout 0"
)
LOGGED = {
    "train": ("xmrank.train.training", "train_worker"),
    "tune": ("xmrank.tune.ray", "try_point"),
    "evaluate": ("xmrank.protocols.evaluation_run", "evaluate_method"),
    "baselines": ("xmrank.baselines.ray", "fit_own_part"),
}
"""Job → the function that its workers call: its calls are written down."""


def log_calls(module: Any, name: str, log: Path) -> None:
    """Replace a function by one that first writes down where it runs. It is pickled by value, and so works there."""
    function: Callable[..., object] = getattr(module, name)

    @functools.wraps(function)
    def logged(*arguments: Any, **named: Any) -> object:
        import ray

        context = ray.get_runtime_context()
        line = {
            "call": name,
            "node": context.get_node_id(),
            "holds": context.get_assigned_resources(),
            "time": time.time(),
        }
        worker = arguments[-1]
        if hasattr(worker, "world_size"):
            line |= {"rank": worker.rank, "processes": worker.world_size}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return function(*arguments, **named)

    # Otherwise it would be looked up by its name, on nodes where it is the original.
    logged.__module__ = "__main__"
    del logged.__wrapped__  # type: ignore[attr-defined]
    setattr(module, name, logged)


def drive(job: str, log: Path) -> None:
    """Run a job in this process, with the flags in ``sys.argv``."""
    import importlib

    from xmrank.cli import run_job

    for module, name in {LOGGED[job], LOGGED["evaluate"]}:
        log_calls(importlib.import_module(module), name, log)
    run_job(job)


class Run:
    """A job in a process of its own, on a cluster."""

    def __init__(self, folder: Path, cluster: Cluster, job: str, output: str, flags: str) -> None:
        self.log, self.output = folder / f"{output}.log", folder / output
        self.said = folder / f"{output}.txt"
        environment = os.environ | {"RAY_ADDRESS": cluster.address, "XMRANK_HOME": str(folder)}
        # From a script without a name of its own, so that what it defines is pickled by value.
        start = f"import sys; sys.argv[0] = {str(ROOT / 'jobs' / job)!r} + '.py'; from pathlib import Path; "
        start += f"import multi_node; multi_node.drive({job!r}, Path({str(self.log)!r}))"
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", start, *flags.split(), "--output", output],
            env=environment, stdout=self.said.open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip

    def wait_for_calls(self, count: int) -> None:
        """Wait until the workers' function was called so often."""
        while len(self.read_calls()) < count and self.process.poll() is None:
            time.sleep(0.1)

    def wait_for_epochs(self) -> None:
        """Wait until a trial has been validated."""
        while not any(self.output.glob("trials/*/state.safetensors")) and self.process.poll() is None:
            time.sleep(0.02)

    def read_calls(self) -> list[dict[str, Any]]:
        """The calls so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def finish(self) -> list[dict[str, Any]]:
        """Wait for the end; returns the calls."""
        status = self.process.wait()
        assert status == 0, f"{self.output.name}: exit status {status}\n{self.said.read_text()}"
        return self.read_calls()


@contextmanager
def nodes_of(*cpus: int, gpus: Sequence[int] = ()) -> Iterator[tuple[Cluster, list[Any]]]:
    """A cluster of nodes with so many CPUs; the first is the head, with the driver."""
    store = 100 << 20
    counts = [{"num_cpus": count, "object_store_memory": store} for count in cpus]
    for count, number in zip(counts, gpus, strict=False):
        count["num_gpus"] = number
    cluster, nodes = patiently(lambda: start_cluster(counts))
    try:
        yield cluster, nodes
    finally:
        cluster.shutdown()


def start_cluster(counts: Sequence[dict[str, Any]]) -> tuple[Cluster, list[Any]]:
    """A cluster, and its nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **counts[0]})
    try:
        return cluster, [cluster.head_node, *(cluster.add_node(**count) for count in counts[1:])]
    except Exception:
        cluster.shutdown()
        raise


def patiently(start: Callable[[], Any]) -> Any:
    """Try it three times: on a busy machine, a node may need longer than the half minute that Ray gives it."""
    for _ in range(2):
        try:
            return start()
        except Exception as error:
            print(error, file=sys.stderr)
    return start()


def count_nodes(calls: list[dict[str, Any]]) -> list[int]:
    """Calls of each node, the most first."""
    nodes = [call["node"] for call in calls]
    return sorted((nodes.count(node) for node in set(nodes)), reverse=True)


def describe_starts(calls: list[dict[str, Any]], lost: float) -> dict[str, Any]:
    """Processes and nodes of each start of a training, and how long after a loss the next one was."""
    starts: list[list[dict[str, Any]]] = []
    for call in sorted(calls, key=lambda call: call["time"]):
        # The ranks of a start call one after the other.
        if not starts or len(starts[-1]) == starts[-1][0]["processes"]:
            starts.append([])
        starts[-1].append(call)
    after = [start[0]["time"] for start in starts if start[0]["time"] > lost]
    return {
        "processes": [start[0]["processes"] for start in starts],
        "nodes": [count_nodes(start) for start in starts],
        "restart_s": round(after[0] - lost, 1) if after and lost else None,
    }


def read_epochs(folder: Path) -> dict[tuple[str, float, str], float]:
    """Trial, epoch and name → figure."""
    values = {}
    for path in sorted(folder.glob("trials/*/history.json")):
        for entry in json.loads(path.read_text())["epochs"]:
            values |= {(path.parent.name, entry["epoch"], name): value for name, value in entry.items()}
    return values


def compare(folder: Path, name: str) -> dict[str, float]:
    """How far a training is from that of one process."""
    one, other = read_epochs(folder / "one"), read_epochs(folder / name)
    assert one.keys() == other.keys()
    far: dict[str, float] = {"loss": 0.0, "metric": 0.0}
    for key, value in one.items():
        kind = "loss" if key[2].endswith("loss") else "metric"
        far[kind] = max(far[kind], abs(value - other[key]))
    tables = [pd.read_parquet(folder / f"evaluation-{which}" / "metrics.parquet") for which in ("one", name)]
    means = [measure_means(table) for table in tables]
    differences = (means[0] - means[1]).abs()
    return {
        "figures": len(one),
        "largest_loss": far["loss"],
        "largest_metric": far["metric"],
        "test_means": len(differences),
        "largest_test_mean": float(differences.max()),
    }


def measure_means(table: pd.DataFrame) -> pd.Series:
    """Mean of every method, loss, direction, protocol and metric over its queries."""
    keys = ["method", "loss", "direction", "protocol", "metric"]
    return table.groupby(keys, dropna=False, observed=True)["value"].mean()


def prepare_inputs(folder: Path) -> None:
    """A store of 1,203 images with five captions each, and its lists."""
    from conftest import make_store
    from pipeline import mine_small

    if not (folder / "lists/manifest.json").exists():
        store = make_store(folder / "store", splits={"train": 1001, "val": 101, "test": 101})
        mine_small(store.directory, folder / "lists", random_candidates=40, hard_negatives=12)


def train_over_nodes(folder: Path) -> dict[str, Any]:
    """The same rankers by one process, by groups over nodes, and with nodes that are lost on the way."""
    figures: dict[str, Any] = {}
    with nodes_of(1, 2) as (cluster, nodes):
        Run(folder, cluster, "train", "one", f"{RANKERS} --workers 1").finish()
        calls = Run(folder, cluster, "train", "spread", f"{RANKERS} --workers 3 --workers-per-trial 3").finish()
        figures["spread"] = describe_starts(calls, lost=0)
        for name in ("one", "spread"):
            evaluate(folder, cluster, name)
    figures["spread"] |= compare(folder, "spread")
    cases = {
        "fewer_groups": ((1, 2, 1), 1, "--workers 0 --workers-per-trial 2"),
        "shared_cores": ((1, 1, 1), 1, "--workers 3 --workers-per-trial 3 --worker-timeout 15"),
    }
    for name, (cpus, lost_node, flags) in cases.items():
        with nodes_of(*cpus) as (cluster, nodes):
            run = Run(folder, cluster, "train", name, f"{RANKERS} {flags}")
            run.wait_for_epochs()
            cluster.remove_node(nodes[lost_node], allow_graceful=False)
            lost = time.time()
            figures[name] = describe_starts(run.finish(), lost)
            said = run.said.read_text().splitlines()
            figures[name]["said"] = [line for line in said if line.startswith(("train: w", "train: g"))]
            evaluate(folder, cluster, name)
        figures[name] |= compare(folder, name)
    return figures


def evaluate(folder: Path, cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """Evaluate a training."""
    flags = f"{STORE} {LISTS} --rankers {name} --top-n 20"
    return Run(folder, cluster, "evaluate", f"evaluation-{name}", flags).finish()


def spread_points(folder: Path) -> dict[str, Any]:
    """Points, fits and evaluations on three nodes."""
    search = f"{STORE} {LISTS} --train.losses listnet --train.epochs 2 --repeats 0 --space "
    search += "learning_rate=[0.01,0.003,0.001] batch_size=[16,32]"
    fits = f"{STORE} {LISTS} --baselines vsepp infonce --seeds 0 1 2 --vsepp.epochs 2 --infonce.epochs 2"
    figures: dict[str, Any] = {}
    with nodes_of(1, 2, 1) as (cluster, _):
        for job, flags in {"tune": search, "baselines": fits}.items():
            # Baselines are evaluated by the job that fits them.
            calls = Run(folder, cluster, job, job, flags).finish()
            for name in dict.fromkeys(call["call"] for call in calls):
                figures[f"{job}: {name}"] = count_nodes([call for call in calls if call["call"] == name])
    with nodes_of(1, 2, gpus=(0, 1)) as (cluster, _):
        calls = Run(folder, cluster, "tune", "tune-gpu", f"{search} --workers 2").finish()
        figures["gpus"] = sorted({json.dumps(call["holds"]) for call in calls})
    return figures


def main() -> None:
    """Run all and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder, or one of this script")
    parser.add_argument("--parts", nargs="*", choices=("train", "spread"), default=["train", "spread"])
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["XMRANK_HOME"] = str(folder)
    # By default Ray gives its workers the least share of a busy machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    prepare_inputs(folder)
    kept = ("store", "lists")
    for path in [path for path in folder.iterdir() if path.name not in kept]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    figures: dict[str, Any] = {}
    if "train" in given.parts:
        figures |= train_over_nodes(folder)
    if "spread" in given.parts:
        figures["spread_points"] = spread_points(folder)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
