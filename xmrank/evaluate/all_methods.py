"""Evaluates all methods: plans a task for each, runs them on the cluster, joins their parts, logs their means."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmrank.config import DIRECTIONS, Direction, EvaluateConfig
from xmrank.config.method_names import FIRST_STAGE
from xmrank.embed.store import EmbeddingStore
from xmrank.evaluate.depth_timing import DepthTimingTask, time_depths
from xmrank.evaluate.result_logging import log_results, make_run_tree, refined_name
from xmrank.evaluate.scoring import RankerScorer, RefinedScorer
from xmrank.evaluate.stage import CURVES, STAGE, TIMING
from xmrank.protocols.evaluation_run import TIE_RULE, TREC, read_rows, run_evaluation
from xmrank.protocols.evaluation_task import EvaluationTask
from xmrank.protocols.reported import reported_images, reported_split
from xmrank.protocols.scorer import FirstStageScorer
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.files import sha256_json, write_json
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.train.checkpoint_json import read_about


def evaluate_all(stage: StageDirectory, config: EvaluateConfig, store: EmbeddingStore, lists: Manifest) -> Manifest:
    """Evaluate what is missing, join the parts and finish the stage."""
    tasks = plan_tasks(stage, config, store)
    runs = make_run_tree(stage.directory, resolve(config.rankers), STAGE)
    if runs:
        runs.begin_parent()
    run_evaluation(tasks, stage.directory)
    rows, timing = read_rows(tasks, "summary"), read_rows(tasks, "timing")
    folder = resolve(config.lists)
    described = {"split": reported_split(folder), "top_n": config.top_n, "galleries": config.galleries}
    write_json(stage.directory / "summary.json", {"rows": rows, **described})
    write_json(stage.directory / TIMING, {"rows": timing, "depths": measure_depth_times(config, store)})
    write_json(stage.directory / CURVES, {"rows": read_rows(tasks, "curves")})
    if runs:
        log_results(runs, resolve(config.rankers), rows, timing)
        runs.end(failed=False)
    queries = count_queries(rows)
    return stage.finish(
        counts={"methods": len(tasks), "queries": sum(queries.values()), "queries_by_direction": queries},
        settings=describe_settings(store, lists, reported_images(folder)),
    )


def measure_depth_times(config: EvaluateConfig, store: EmbeddingStore) -> list[dict[str, Any]]:
    """The rows of ``time_depths`` for one ranker of each direction: all of a training are built alike."""
    chosen: dict[Direction, Path] = {}
    for trial in sorted((resolve(config.rankers) / "trials").iterdir()):
        chosen.setdefault(read_about(trial)["direction"], trial)
    tasks = [DepthTimingTask(store.directory, resolve(config.lists), chosen[d], d) for d in DIRECTIONS if d in chosen]
    return [row for rows in run_tasks(time_depths, tasks) for row in rows]


def count_queries(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many queries of each direction searched the full gallery; those without a relevant item do not count."""
    counts: dict[str, int] = {}
    for direction in DIRECTIONS:
        full = [row for row in rows if row["direction"] == direction and row["protocol"] == "gallery"]
        counts[direction] = max(row["queries"] for row in full)
    return counts


def describe_settings(store: EmbeddingStore, lists: Manifest, images: np.ndarray) -> dict[str, Any]:
    """What a reader of the figures must know: how lists were made, the tie rule, and which images are reported."""
    reported = {name: entry for name, entry in lists.counts.items() if name.endswith("_test")}
    ids = store.images["image_id"].take(images).to_pylist()
    return {
        "candidates_per_list": {name: entry["longest"] for name, entry in reported.items()},
        "positives_last": {
            name: entry["positives_last"] / max(entry["queries"], 1)
            for name, entry in reported.items()
            if "positives_last" in entry
        },
        "lists_config": lists.config,
        "tie_rule": TIE_RULE,
        "split_images": len(ids),
        "split_hash": sha256_json(sorted(ids)),
    }


def plan_tasks(stage: StageDirectory, config: EvaluateConfig, store: EmbeddingStore) -> list[EvaluationTask]:
    """The first stage in both directions, the refined first stage of every seed that has one, then every ranker."""
    lists, rankers = resolve(config.lists), resolve(config.rankers)
    common: dict[str, Any] = {"embeddings": store.directory, "lists": lists, "work": stage.work}
    common |= {"top_n": config.top_n, "galleries": config.galleries, "trec": config.trec}
    common |= {"trec_folder": stage.directory / TREC}
    # The first stage's tasks also write the qrels, which are the same for every method.
    first = [
        EvaluationTask(f"{FIRST_STAGE}-{direction}", direction, FirstStageScorer(), with_qrels=True, **common)
        for direction in DIRECTIONS
    ]
    trials = sorted((rankers / "trials").iterdir())
    timed: set[tuple[Direction, str]] = set()
    refined, ranked = {}, []
    for trial in trials:
        about = read_about(trial)
        direction: Direction = about["direction"]
        # The rankers of a seed share their refinement: the first of them stands for all.
        name = refined_name(direction, about["seed"])
        # Rankers of other seeds are built alike, and take the same time.
        loss = (direction, about["loss"])
        scorer = RankerScorer(trial, timed=loss not in timed)
        timed.add(loss)
        ranked.append(EvaluationTask(trial.name, direction, scorer, family=name, **common))
        if about.get("refinement") and name not in refined:
            refined[name] = EvaluationTask(name, direction, RefinedScorer(trial), family=name, **common)
    return [*first, *refined.values(), *ranked]
