"""Two-stage search compared with naive ranking by a full sort, and LCM's training time, on one core.

    python benchmarks/two_stage_knn.py
    python benchmarks/two_stage_knn.py --wikipedia data/features/wikipedia    # and train LCM on it

Random embeddings of 32 dimensions, 10,000 training and 10,000 retrieval items, 2,000 queries. Either 10 classes with
one label per item, or 90 classes with up to three. Prints one JSON line: milliseconds per query, the median of the
rounds, and how many times as fast as the naive full sort the two-stage search is.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from scipy.spatial.distance import cdist

from xmrank.config import SupervisedConfig
from xmrank.supervised.layouts import read_features
from xmrank.supervised.methods import fit_method
from xmrank.supervised.two_stage_knn import by_distance, label_ranks, two_stage

QUERIES, TRAIN, ITEMS, DIMENSIONS = 2_000, 10_000, 10_000, 32
KINDS = {"one label": (10, 1), "several labels": (90, 3)}


def main() -> None:
    """Measure, and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wikipedia", type=Path, help="folder of the classic Wikipedia files")
    arguments = parser.parse_args()
    # One thread everywhere, so that CPU time per query can be compared.
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    result: dict[str, object] = {name: searches(*kind, rounds=arguments.rounds) for name, kind in KINDS.items()}
    if arguments.wikipedia:
        result["lcm on wikipedia"] = training(arguments.wikipedia)
    print(json.dumps(result))


def searches(classes: int, most_labels: int, *, rounds: int) -> dict[str, float]:
    """Milliseconds per query of each search. They take turns in every round."""
    generator = np.random.default_rng(0)
    queries, train, items = (
        np.tanh(generator.normal(size=(count, DIMENSIONS))).astype(np.float32) for count in (QUERIES, TRAIN, ITEMS)
    )
    train_labels, item_labels = (labels_of(generator, count, classes, most_labels) for count in (TRAIN, ITEMS))
    searches_by_name: dict[str, Callable[[], object]] = {
        "two_stage": lambda: two_stage(queries, train, train_labels, items, item_labels),
        "stage_1_alone": lambda: label_ranks(queries, train, train_labels),
        "naive_argsort": lambda: np.argsort(naive_distances(queries, items), axis=1),
        "naive_cdist_argsort": lambda: cdist(queries, items).argsort(),
        "by_distance": lambda: by_distance(queries, items),
    }
    times: dict[str, list[float]] = {name: [] for name in searches_by_name}
    for _ in range(rounds + 1):  # the first warms up
        for name, search in searches_by_name.items():
            started = time.process_time()
            search()
            times[name].append(1000 * (time.process_time() - started) / QUERIES)
    result = {name: round(statistics.median(values[1:]), 4) for name, values in times.items()}
    ratios = [naive / two for naive, two in zip(times["naive_argsort"][1:], times["two_stage"][1:], strict=True)]
    return result | {"two_stage beside naive_argsort": round(statistics.median(ratios), 2)}


def naive_distances(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """All squared distances, by one matrix product."""
    return (queries**2).sum(1)[:, None] + (items**2).sum(1) - 2 * queries @ items.T


def labels_of(generator: np.random.Generator, count: int, classes: int, most: int) -> np.ndarray:
    """Up to ``most`` random labels for each item."""
    labels = np.zeros((count, classes), np.bool_)
    for _ in range(most):
        labels[np.arange(count), generator.integers(0, classes, count)] = True
    return labels


def training(folder: Path) -> dict[str, float]:
    """Seconds that LCM takes from the features to its best state, on one thread."""
    data = read_features("wikipedia", "", folder, seed=0)
    config = SupervisedConfig(data=(f"wikipedia={folder}",))
    seconds, rounds = [], []
    for seed in config.runs:
        started, burnt = time.perf_counter(), time.process_time()
        rounds.append(len(fit_method("lcm", data, config, seed).history))
        seconds.append((time.perf_counter() - started, time.process_time() - burnt))
    walls, burns = zip(*seconds, strict=True)
    figures = {"wall_s": statistics.fmean(walls), "cpu_s": statistics.fmean(burns), "rounds": statistics.fmean(rounds)}
    return {name: round(value, 2) for name, value in figures.items()}


if __name__ == "__main__":
    main()
