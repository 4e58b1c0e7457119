"""The evaluation stage: the first stage and every ranker on the same lists and galleries, query by query."""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from xmrank.config import DIRECTIONS, EvaluateConfig, semantic
from xmrank.embed.store import EmbeddingStore, encoder_name
from xmrank.evaluate.logged import log_results
from xmrank.mine.stage import STAGE as MINE
from xmrank.protocols.galleries import check_galleries
from xmrank.protocols.methods import FIRST_STAGE, PARTS, EvaluationTask, evaluate_one, reported_images, reported_split
from xmrank.protocols.query_tables import METRICS_SCHEMA, RANKINGS_SCHEMA, join_tables
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.directory import Manifest, StageDirectory, read_manifest
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_json, write_json
from xmrank.runtime.paths import resolve
from xmrank.runtime.progress import Progress
from xmrank.train.checkpoint import read_about
from xmrank.train.stage import STAGE as TRAIN

STAGE = "evaluate"
TIMING, CURVES = "timing.json", "curves.json"
TIE_RULE = "expectation over random orders of equal scores"
TREC = "trec"


def evaluate(config: EvaluateConfig) -> Manifest:
    """Evaluate the first stage and all trained rankers; methods that an interrupted run finished are kept.

    Raises:
        ConfigError: a gallery of more images than are reported.
        DataError: inputs that are not finished, or rankers that belong to other embeddings or lists.
    """
    store = EmbeddingStore.open(resolve(config.embeddings))
    lists, rankers = read_manifest(resolve(config.lists), MINE), read_manifest(resolve(config.rankers), TRAIN)
    check(store, lists, rankers, resolve(config.rankers))
    folder = resolve(config.lists)
    check_galleries(config.galleries, len(reported_images(folder)), reported_split(folder))
    inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint, "rankers": rankers.fingerprint}
    output = resolve(config.output)
    stage = StageDirectory.open(output, STAGE, config=semantic(config), inputs=inputs, overwrite=config.overwrite)
    manifest = stage.done or evaluate_all(stage, config, store, lists)
    print(f"evaluate: {manifest.counts['methods']} methods, {manifest.counts['queries']} queries in {output}")
    if (output / TIMING).exists():
        print_latency(json.loads((output / TIMING).read_text())["rows"])
    return manifest


def check(store: EmbeddingStore, lists: Manifest, rankers: Manifest, folder: Path) -> None:
    """Refuse stages that do not belong together.

    Args:
        store, lists, rankers: what the stages made.
        folder: of the rankers.
    """
    if lists.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"--lists: mined from other embeddings than {store.directory}")
    if rankers.inputs["embeddings"] != store.fingerprint:
        theirs = read_about(next(iter(sorted((folder / "trials").iterdir())))).get("encoder") or {}
        raise DataError(
            f"--rankers: trained on other embeddings than {store.directory}: theirs are of {encoder_name(theirs)}, "
            f"these of {encoder_name(store.encoder)}"
        )
    if rankers.inputs["lists"] != lists.fingerprint:
        raise DataError("--rankers: trained on other lists than the given ones")


def evaluate_all(stage: StageDirectory, config: EvaluateConfig, store: EmbeddingStore, lists: Manifest) -> Manifest:
    """Evaluate what is missing, join the parts and finish the stage."""
    tasks = plan(stage, config, store)
    left = [task for task in tasks if not all(task.part(kind).exists() for kind in PARTS)]
    with Progress("evaluate (methods)", len(tasks), len(tasks) - len(left)) as progress:
        for _ in run_tasks(evaluate_one, left) if left else ():
            progress.advance()
    join_tables(stage.directory / "metrics.parquet", [t.part("metrics") for t in tasks], METRICS_SCHEMA)
    join_tables(stage.directory / "rankings.parquet", [t.part("rankings") for t in tasks], RANKINGS_SCHEMA)
    rows, timing, curves = (joined(tasks, kind) for kind in ("summary", "timing", "curves"))
    folder = resolve(config.lists)
    described = {"split": reported_split(folder), "top_n": config.top_n, "galleries": config.galleries}
    write_json(stage.directory / "summary.json", {"rows": rows, **described})
    write_json(stage.directory / TIMING, {"rows": timing})
    write_json(stage.directory / CURVES, {"rows": curves})
    log_results(stage.directory, resolve(config.rankers), STAGE, rows, timing)
    queries = {
        d: max(r["queries"] for r in rows if r["direction"] == d and r["protocol"] == "gallery") for d in DIRECTIONS
    }
    return stage.finish(
        counts={"methods": len(tasks), "queries": sum(queries.values()), "queries_by_direction": queries},
        settings=settings(store, lists, reported_images(folder)),
    )


def settings(store: EmbeddingStore, lists: Manifest, images: np.ndarray) -> dict[str, Any]:
    """What a reader of the figures must know: how lists were made, ties broken, and which images are reported."""
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


def plan(stage: StageDirectory, config: EvaluateConfig, store: EmbeddingStore) -> list[EvaluationTask]:
    """The first stage in both directions, then every ranker."""
    lists, rankers = resolve(config.lists), resolve(config.rankers)
    common: dict[str, Any] = {"embeddings": store.directory, "lists": lists, "work": stage.work}
    common |= {"top_n": config.top_n, "galleries": config.galleries, "trec": config.trec}
    common |= {"trec_folder": stage.directory / TREC}
    first = [EvaluationTask(f"{FIRST_STAGE}-{d}", d, ranker=None, **common) for d in DIRECTIONS]
    trials = sorted((rankers / "trials").iterdir())
    return first + [
        EvaluationTask(trial.name, read_about(trial)["direction"], ranker=trial, **common) for trial in trials
    ]


def joined(tasks: list[EvaluationTask], kind: str) -> list[dict[str, Any]]:
    """The rows of all tasks' parts of a JSON kind."""
    return [row for task in tasks for row in json.loads(task.part(kind).read_text())]


def print_latency(timing: list[dict[str, Any]]) -> None:
    """One line: how long a query takes at each depth, the median over rankers."""
    names = dict.fromkeys(row["protocol"] for row in timing)
    times = {name: [row["alone_ms"] for row in timing if row["protocol"] == name] for name in names}
    if times:
        told = ", ".join(f"{name} {statistics.median(values):.1f} ms" for name, values in times.items())
        print(f"evaluate: re-ranking one query takes (median of the rankers) {told}")
