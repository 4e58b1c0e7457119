"""The evaluation stage: the first stage and every ranker on the same lists and galleries, query by query."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmrank import tracking
from xmrank.candidates import Lists, lists_path
from xmrank.candidates.mine import STAGE as MINE
from xmrank.cluster import run_tasks
from xmrank.config import DIRECTIONS, Direction, EvaluateConfig, semantic
from xmrank.embedding import EmbeddingStore
from xmrank.errors import DataError
from xmrank.evaluation import mlflow_name
from xmrank.files import write_json, write_table
from xmrank.paths import home, resolve
from xmrank.progress import Progress
from xmrank.ranking.protocols import Protocol, gallery_pool, reported_lists, top_of_gallery, whole_gallery
from xmrank.ranking.results import (
    METRICS_SCHEMA,
    RANKINGS_SCHEMA,
    join_tables,
    metrics_table,
    rankings_table,
    side_ids,
    summarise,
)
from xmrank.ranking.scoring import score_lists
from xmrank.stage import Manifest, Stage, read_manifest
from xmrank.training.checkpoint import load_ranker, read_about
from xmrank.training.train import STAGE as TRAIN
from xmrank.training.train import TRACKING, connect_tracking

STAGE = "evaluate"
FIRST_STAGE = "cosine"
PARTS = ("metrics", "rankings", "summary")
TIE_RULE = "expectation over random orders of equal scores"


@dataclass(frozen=True)
class Task:
    """The evaluation of one method: a trained ranker, or the first stage in one direction.

    Attributes:
        name: of its part files; a ranker's is its trial's name.
        ranker: the ranker's folder; None for the first stage.
    """

    name: str
    direction: Direction
    embeddings: Path
    lists: Path
    ranker: Path | None
    work: Path
    top_n: int

    def part(self, kind: str) -> Path:
        """A part file, of one of ``PARTS``."""
        return self.work / f"{self.name}.{kind}"


def evaluate(config: EvaluateConfig) -> Manifest:
    """Evaluate the first stage and all trained rankers; methods that an interrupted run finished are kept.

    Raises:
        DataError: inputs that are not finished, or rankers that belong to other embeddings or lists.
    """
    store = EmbeddingStore.open(resolve(config.embeddings))
    lists, rankers = read_manifest(resolve(config.lists), MINE), read_manifest(resolve(config.rankers), TRAIN)
    check(store, lists, rankers)
    inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint, "rankers": rankers.fingerprint}
    output = resolve(config.output)
    stage = Stage.open(output, STAGE, config=semantic(config), inputs=inputs, overwrite=config.overwrite)
    manifest = stage.done or evaluate_all(stage, config, store, lists)
    print(f"evaluate: {manifest.counts['methods']} methods, {manifest.counts['queries']} queries in {output}")
    return manifest


def check(store: EmbeddingStore, lists: Manifest, rankers: Manifest) -> None:
    """Refuse stages that do not belong together."""
    if lists.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"--lists: mined from other embeddings than {store.directory}")
    for name, fingerprint in (("embeddings", store.fingerprint), ("lists", lists.fingerprint)):
        if rankers.inputs[name] != fingerprint:
            raise DataError(f"--rankers: trained on other {name} than the given ones")


def evaluate_all(stage: Stage, config: EvaluateConfig, store: EmbeddingStore, lists: Manifest) -> Manifest:
    """Evaluate what is missing, join the parts and finish the stage."""
    tasks = plan(stage, config, store)
    left = [task for task in tasks if not all(task.part(kind).exists() for kind in PARTS)]
    with Progress("evaluate (methods)", len(tasks), len(tasks) - len(left)) as progress:
        for _ in run_tasks(evaluate_one, left) if left else ():
            progress.advance()
    join_tables(stage.directory / "metrics.parquet", [t.part("metrics") for t in tasks], METRICS_SCHEMA)
    join_tables(stage.directory / "rankings.parquet", [t.part("rankings") for t in tasks], RANKINGS_SCHEMA)
    rows = [row for task in tasks for row in json.loads(task.part("summary").read_text())]
    split = reported_split(resolve(config.lists))
    write_json(stage.directory / "summary.json", {"rows": rows, "split": split, "top_n": config.top_n})
    log_results(stage, config, rows)
    queries = {
        d: max(r["queries"] for r in rows if r["direction"] == d and r["protocol"] != "lists") for d in DIRECTIONS
    }
    candidates = {name: entry["longest"] for name, entry in lists.counts.items() if name.endswith("_report")}
    return stage.finish(
        counts={"methods": len(tasks), "queries": sum(queries.values()), "queries_by_direction": queries},
        settings={"candidates_per_list": candidates, "lists_config": lists.config, "tie_rule": TIE_RULE},
    )


def plan(stage: Stage, config: EvaluateConfig, store: EmbeddingStore) -> list[Task]:
    """The first stage in both directions, then every ranker."""
    lists, rankers = resolve(config.lists), resolve(config.rankers)
    common: dict[str, Any] = {"embeddings": store.directory, "lists": lists, "work": stage.work, "top_n": config.top_n}
    first = [Task(f"{FIRST_STAGE}-{d}", d, ranker=None, **common) for d in DIRECTIONS]
    trials = sorted((rankers / "trials").iterdir())
    return first + [Task(trial.name, read_about(trial)["direction"], ranker=trial, **common) for trial in trials]


def evaluate_one(task: Task) -> None:
    """Evaluate one method and write its parts."""
    torch.set_num_threads(1)  # as in training: the same scores wherever it runs
    store, protocols, gallery = prepared(task.embeddings, task.lists, task.direction, task.top_n)
    key: dict[str, Any] = {"direction": task.direction, "split": reported_split(task.lists)}
    if task.ranker is None:
        key |= {"method": FIRST_STAGE, "loss": "", "ranker": "", "seed": -1}
        scores = [protocol.lists.similarity for protocol in protocols]
        measured = [protocols[0].metrics(scores[0]), gallery]
        names = ["lists", "gallery"]
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        ranker, about = load_ranker(task.ranker, device)
        key |= {"method": about["loss"], "loss": about["loss"], "ranker": about["ranker"], "seed": about["seed"]}
        scores = [score_lists(ranker, p.lists, store, task.direction, device) for p in protocols]
        measured = [p.metrics(s) for p, s in zip(protocols, scores, strict=True)]
        names = [p.name for p in protocols]
    write_parts(task, key, store, protocols, scores, measured, names)


def write_parts(
    task: Task,
    key: dict[str, Any],
    store: EmbeddingStore,
    protocols: list[Protocol],
    scores: list[np.ndarray],
    measured: list[dict[str, np.ndarray]],
    names: list[str],
) -> None:
    """Write a method's per-query metrics and rankings, and last its summary."""
    import pyarrow as pa

    ids = side_ids(store, task.direction)
    metrics, rankings, summary = [], [], []
    for protocol, values, result, name in zip(protocols, scores, measured, names, strict=True):
        named = {**key, "protocol": name}
        query_ids = ids[0].take(protocol.lists.queries).to_pylist()
        metrics.append(metrics_table(named, query_ids, result, protocol.positives))
        rankings.append(rankings_table(named, protocol, values, ids))
        summary += summarise(named, result)
    for kind, tables in (("metrics", metrics), ("rankings", rankings)):
        write_table(task.part(kind), pa.concat_tables(tables).unify_dictionaries())
    write_json(task.part("summary"), summary)


@lru_cache(maxsize=2)
def prepared(
    embeddings: Path, lists: Path, direction: Direction, n: int
) -> tuple[EmbeddingStore, list[Protocol], dict[str, np.ndarray]]:
    """What all methods of a direction share in one process: the store, the protocols, the first stage's gallery."""
    store = EmbeddingStore.open(embeddings)
    images = np.array(json.loads((lists / "splits.json").read_text())["report"]["images"], np.int64)
    pool = gallery_pool(store, images, direction)
    mined = reported_lists(Lists.read(lists_path(lists, direction, "report")), direction)
    return store, [mined, top_of_gallery(store, pool, n)], whole_gallery(store, pool)


def reported_split(lists: Path) -> str:
    """The name of the split that is reported."""
    return str(json.loads((lists / "splits.json").read_text())["report"]["split"])


def log_results(stage: Stage, config: EvaluateConfig, rows: list[dict[str, Any]]) -> None:
    """Log every method's means to its MLflow run; the first stage gets a run beside the rankers'."""
    path = resolve(config.rankers) / TRACKING
    if not path.exists():
        return
    uri, runs = connect_tracking(), json.loads(path.read_text())
    tags = {"stage": STAGE, "loss": FIRST_STAGE} | tracking.origin_tags()
    own = stage.directory / TRACKING
    resume = json.loads(own.read_text())[FIRST_STAGE] if own.exists() else None
    first = tracking.begin(uri, home(), FIRST_STAGE, parent=runs["parent"], resume=resume, tags=tags)
    write_json(own, {FIRST_STAGE: first})
    metrics: dict[str, dict[str, float]] = {}
    for row in rows:
        trial = f"{row['loss']}-{row['direction']}-seed{row['seed']}"
        run = first if row["method"] == FIRST_STAGE else runs.get(trial)
        place = "" if row["protocol"] == "lists" else f"{row['protocol']}/"
        if run and row["mean"] is not None:
            name = f"{row['direction']}/{place}{mlflow_name(row['metric'])}"
            metrics.setdefault(run, {})[name] = row["mean"]
    for run, values in metrics.items():
        if tracking.status(uri, run):  # rankers that were trained elsewhere have their runs there
            tracking.log_metrics(uri, run, values)
    tracking.end(uri, first)
