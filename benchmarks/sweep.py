"""A search on Ray Tune compared with a shell loop: 24 trainings of 5 epochs, two at a time, same settings and lists.

    python benchmarks/sweep.py --embeddings runs/demo/embeddings --lists runs/demo/lists

The loop starts a process with one thread for each training, two at a time, like `xargs -P 2`. It runs xmrank's training
loop alone, without Ray, MLflow or anything that can be resumed. The search is jobs/tune.py with all of them, timed from
its start until its results are there. Prints one JSON line: seconds of wall time, and the load average, which tells how
far to trust them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from paper_training import read_paper_training

from xmrank.config.presets import PRESETS

ROOT = Path(__file__).parents[1]
SPACE = ("learning_rate=[0.003,0.001,0.0003,0.0001]", "ranker.width=[32,64]", "ranker.dropout=[0.0,0.1,0.3]")
LOSS, DIRECTION, EPOCHS, WORKERS = "listnet", "t2i", 5, 2


def write_preset(folder: Path) -> Path:
    """Write a preset of the job tune with the paper's training; returns its path."""
    settings = yaml.safe_load((PRESETS / "paper.yaml").read_text())["train"]
    del settings["seeds"]
    path = folder / "paper.yaml"
    path.write_text(yaml.safe_dump({"tune": {"train": settings}}))
    return path


def search(embeddings: Path, lists: Path, folder: Path) -> float:
    """Run jobs/tune.py; returns the seconds until its results are there."""
    command = [sys.executable, ROOT / "jobs/tune.py", "--embeddings", embeddings, "--lists", lists]
    command += ["--preset", write_preset(folder)]
    command += ["--output", folder / "tuned", "--space", *SPACE, "--repeats", "0", "--workers", str(WORKERS)]
    command += ["--train.losses", LOSS, "--train.directions", DIRECTION, "--train.epochs", str(EPOCHS)]
    started = time.perf_counter()
    job = subprocess.Popen(list(map(str, command)), env=os.environ | {"XMRANK_HOME": str(folder)}, stdout=sys.stderr)
    # The manifest is written last. The job then still trains and logs, which is not part of the comparison.
    while not (folder / "tuned/search/manifest.json").exists():
        assert job.poll() is None, "the search failed"
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    job.wait()
    return seconds


def loop(embeddings: Path, lists: Path, folder: Path) -> float:
    """Train the same points in a loop of processes; returns the seconds."""
    from xmrank.config import TrainConfig, TuneConfig
    from xmrank.tune.ranker_target import RankerTarget
    from xmrank.tune.stage import list_all_points

    # A search has seeds of its own and takes none.
    own = {"losses": (LOSS,), "directions": (DIRECTION,), "seeds": TrainConfig().seeds, "epochs": EPOCHS}
    train = replace(read_paper_training(), **own)
    config = TuneConfig(space=SPACE, train=train)
    target = RankerTarget(config, train, {}, {})
    points = [point.settings for point in list_all_points(target, target.list_groups(), config)]
    common = [sys.executable, __file__, "--embeddings", embeddings, "--lists", lists]

    def run_point(number: int) -> None:
        command = [*common, "--one", json.dumps(points[number]), "--folder", folder / str(number)]
        subprocess.run(list(map(str, command)), check=True)

    started = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(run_point, range(len(points))))
    return time.perf_counter() - started


def train_one(embeddings: Path, lists: Path, point: dict[str, Any], folder: Path) -> None:
    """Train one point of the loop, in this process."""
    import torch

    from xmrank.embed.store import EmbeddingStore
    from xmrank.mine.list_paths import lists_path
    from xmrank.mine.mapped_lists import open_lists
    from xmrank.train.list_data import ListData
    from xmrank.train.trainer import TrainingJob, train_group
    from xmrank.train.training_data import TrainingData
    from xmrank.train.trial_log import TrialLog
    from xmrank.train.trial_settings import with_point
    from xmrank.train.trials import Trial
    from xmrank.train.worker_group import WorkerGroup

    torch.set_num_threads(1)
    store = EmbeddingStore.open(embeddings)
    settings = with_point(replace(read_paper_training(), losses=(LOSS,), epochs=EPOCHS), LOSS, point)
    train, validation = (
        ListData.of(open_lists(lists_path(lists, DIRECTION, role), folder), store, DIRECTION, torch.device("cpu"))
        for role in ("train", "validation")
    )
    job = TrainingJob(settings, TrainingData(train, validation), folder, WorkerGroup(), {}, TrialLog())
    train_group([Trial(LOSS, DIRECTION, 0)], job)


def main() -> None:
    """Time the loop and the search, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--lists", type=Path, required=True)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    inputs = given.embeddings.resolve(), given.lists.resolve()
    if given.one is not None:
        train_one(*inputs, given.one, given.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        seconds = {"loop": loop(*inputs, Path(folder) / "loop"), "search": search(*inputs, Path(folder))}
    load = os.getloadavg()[0]
    print(json.dumps({**seconds, "search_over_loop": seconds["search"] / seconds["loop"], "load": load}))


if __name__ == "__main__":
    main()
