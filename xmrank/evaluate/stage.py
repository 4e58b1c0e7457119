"""The evaluation stage: the first stage and every ranker on the same lists and galleries, query by query."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmrank.config import DIRECTIONS, Direction, EvaluateConfig, semantic
from xmrank.config.method_names import FIRST_STAGE
from xmrank.embed.store import EmbeddingStore, encoder_name
from xmrank.evaluate.depth_timing import DepthTimingTask, time_depths
from xmrank.evaluate.result_logging import log_results, make_run_tree, refined_name
from xmrank.evaluate.scoring import RankerScorer, RefinedScorer
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.protocols.evaluation_run import TIE_RULE, TREC, read_rows, run_evaluation
from xmrank.protocols.evaluation_task import EvaluationTask
from xmrank.protocols.galleries import check_galleries
from xmrank.protocols.reported import reported_images, reported_split
from xmrank.protocols.scorer import FirstStageScorer
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_json, write_json
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.verification import read_outputs
from xmrank.tracking.delivery import deliver_while_open
from xmrank.train.checkpoint import read_about
from xmrank.train.stage import STAGE as TRAIN

STAGE = "evaluate"
TIMING, CURVES = "timing.json", "curves.json"


def evaluate(config: EvaluateConfig) -> Manifest:
    """Evaluate the first stage and all trained rankers; methods that an interrupted run finished are kept.

    Raises:
        ConfigError: a gallery of more images than are reported.
        DataError: inputs that are not finished, or rankers of other embeddings or lists.
    """
    store = EmbeddingStore.open(resolve(config.embeddings))
    lists, rankers = read_outputs(resolve(config.lists), MINE), read_outputs(resolve(config.rankers), TRAIN)
    check_inputs(store, lists, rankers, resolve(config.rankers))
    folder = resolve(config.lists)
    check_galleries(config.galleries, len(reported_images(folder)), reported_split(folder))
    inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint, "rankers": rankers.fingerprint}
    output = resolve(config.output)
    stage = StageDirectory.open(output, STAGE, config=semantic(config), inputs=inputs, overwrite=config.overwrite)
    with deliver_while_open(output):
        manifest = stage.done or evaluate_all(stage, config, store, lists)
    print(f"evaluate: {manifest.counts['methods']} methods, {manifest.counts['queries']} queries in {output}")
    # Also when nothing was evaluated now.
    if (output / TIMING).exists():
        print_latency(json.loads((output / TIMING).read_text())["rows"])
    return manifest


def check_inputs(store: EmbeddingStore, lists: Manifest, rankers: Manifest, folder: Path) -> None:
    """Refuse stages that are not of one run.

    Args:
        store, lists, rankers: outputs of the stages before.
        folder: of the rankers.

    Raises:
        DataError: names the stage that was made from other inputs.
    """
    if lists.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"--lists: mined from other embeddings than {store.directory}")
    if rankers.inputs["embeddings"] != store.fingerprint:
        # All rankers of a training have one encoder; the first one names it.
        theirs = read_about(next(iter(sorted((folder / "trials").iterdir())))).get("encoder") or {}
        raise DataError(
            f"--rankers: trained on other embeddings than {store.directory}: theirs are of {encoder_name(theirs)}, "
            f"these of {encoder_name(store.encoder)}"
        )
    if rankers.inputs["lists"] != lists.fingerprint:
        raise DataError("--rankers: trained on other lists than the given ones")


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
    refined, ranked = {}, []
    for trial in trials:
        about = read_about(trial)
        direction: Direction = about["direction"]
        ranked.append(EvaluationTask(trial.name, direction, RankerScorer(trial), **common))
        # The rankers of a seed share their refinement: the first of them stands for all.
        name = refined_name(direction, about["seed"])
        if about.get("refinement") and name not in refined:
            refined[name] = EvaluationTask(name, direction, RefinedScorer(trial), **common)
    return [*first, *refined.values(), *ranked]


def print_latency(timing: Sequence[dict[str, Any]]) -> None:
    """Print one line: how long a query takes on each protocol, the median over rankers."""
    times: dict[str, list[float]] = {}
    for row in timing:
        times.setdefault(row["protocol"], []).append(row["alone_ms"])
    if times:
        medians = [f"{protocol} {statistics.median(values):.1f} ms" for protocol, values in times.items()]
        print(f"evaluate: re-ranking one query takes (median of the rankers) {', '.join(medians)}")
