"""Where a worker of the training stage spends its time, and how much of it the bare steps would take.

    python jobs/experiment.py --preset demo        # makes store and lists
    python benchmarks/stage_share.py --embeddings runs/demo/embeddings --lists runs/demo/lists --preset demo

One worker, in this process, without Ray: the same code as in a process of Ray Train, from the first file that it reads
to the last ranker that it writes. Afterwards the last steps of each ranker are taken again, with nothing else around
them: the bare step. CPU seconds of one thread. Prints one JSON line: seconds of every part, lists a second of the
stage, of its epochs (all but word detection and refinement) and of the bare step, and the bare step's share of both.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from one_worker import one_worker

from xmrank.config import TrainConfig
from xmrank.config.parsing import parse_config
from xmrank.train import trainer, training
from xmrank.train.stage import train
from xmrank.train.step import TrainingStep
from xmrank.train.training_data import TrainingData

PARTS = {
    "word detection": (trainer, "learn_detections"),
    "refinement": (TrainingData, "load_refinement"),
    "drawing lists": (TrainingData, "sample_lists"),
    "validation": (trainer, "validate_rankers"),
    "saving": (trainer, "save_together"),
}
"""Functions of the stage by the part of its work that they do; the steps are taken apart."""
STEPS = 20
"""How many bare steps of each ranker are timed, twice: the first time warms up."""


class PartTimes:
    """CPU seconds of parts, and the arguments of the last steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.lists: dict[TrainingStep, int] = defaultdict(int)
        self.steps: dict[TrainingStep, list[tuple[Any, ...]]] = defaultdict(list)

    def time_calls(self, owner: Any, name: str, part: str) -> Any:
        """A patch that adds up the time of a function."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[part] += time.process_time() - started

        return mock.patch.object(owner, name, timed)

    def time_steps(self) -> Any:
        """A patch of the training step that also keeps what it was given."""
        function = TrainingStep.take

        def timed(step: TrainingStep, data: Any, rows: Any, *rest: Any) -> None:
            started = time.process_time()
            function(step, data, rows, *rest)
            self.seconds["steps"] += time.process_time() - started
            self.lists[step] += sum(len(own) for own in rows)
            self.steps[step] = [*self.steps[step][1 - STEPS :], (data, rows, *rest)]

        return mock.patch.object(TrainingStep, "take", timed)


def measure(config: TrainConfig) -> dict[str, Any]:
    """Train, and time the parts."""
    times = PartTimes()
    with one_worker(
        times.time_calls(training, "train_worker", "worker"),
        *(times.time_calls(owner, name, part) for part, (owner, name) in PARTS.items()),
        times.time_steps(),
    ):
        train(config)
    worker = times.seconds["worker"]
    epochs = worker - sum(times.seconds[part] for part in ("word detection", "refinement"))
    bare = sum(count * time_list(step, times.steps[step]) for step, count in times.lists.items())
    lists = sum(times.lists.values())
    return {
        "seconds": {part: round(value, 2) for part, value in times.seconds.items()} | {"bare steps": round(bare, 2)},
        "lists a second": {
            "stage": round(lists / worker, 1),
            "its epochs": round(lists / epochs, 1),
            "bare step": round(lists / bare, 1),
        },
        "epochs beside bare step": round(bare / epochs, 3),
        "stage beside bare step": round(bare / worker, 3),
    }


def time_list(step: TrainingStep, arguments: list[tuple[Any, ...]]) -> float:
    """CPU seconds that a step takes for one list."""
    seconds = 0.0
    for _ in range(2):
        started = time.process_time()
        for given in arguments:
            step.take(*given)
        seconds = time.process_time() - started
    return seconds / sum(len(own) for given in arguments for own in given[1])


def main() -> None:
    """Measure with the flags of the training job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=["listnet", "neural_ndcg"])
    own, flags = parser.parse_known_args()
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for loss in own.losses:
            words = [*flags, "--losses", loss, "--seeds", "0", "--output", str(Path(folder) / loss)]
            results[loss] = measure(parse_config(TrainConfig, words, name="train"))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
