"""The stage of the baselines: fit them, and rank the same lists and galleries with them as with everything else."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

from xmrank.baselines.baseline_features import BaselineFeatures, fingerprint_sources, fitted_images
from xmrank.baselines.baseline_registry import BaselineFit, check_baselines, describe_settings, list_fits, settings_of
from xmrank.baselines.baseline_scoring import BaselineScorer
from xmrank.baselines.fit_watcher import watch_fits
from xmrank.baselines.fitting import FITS, HISTORY, FittingJob, directory_of
from xmrank.baselines.ray import fit_on_cluster
from xmrank.config import DIRECTIONS, BaselinesConfig
from xmrank.config.printing import format_config
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.protocols.evaluation_run import TIE_RULE, TREC, read_rows, run_evaluation, tracked_name
from xmrank.protocols.evaluation_task import EvaluationTask
from xmrank.protocols.galleries import check_galleries
from xmrank.protocols.reported import reported_images, reported_split
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.verification import read_outputs
from xmrank.tracking.run_tree import PlannedRun, RunTree

STAGE = "baselines"
SHOWN = ("hit@1", "hit@5", "hit@10")


def baselines(config: BaselinesConfig) -> Manifest:
    """Fit all baselines and evaluate them; fits and evaluations that an interrupted run finished are kept.

    Raises:
        ConfigError: an unknown baseline, setting or split.
        DataError: inputs that are not finished or do not belong together, features of other rows than the store's.
    """
    check_baselines(config)
    store, lists = EmbeddingStore.open(resolve(config.embeddings)), read_outputs(resolve(config.lists), MINE)
    check_inputs(config, store, lists)
    output = resolve(config.output)
    stage = StageDirectory.open(
        output,
        STAGE,
        config=describe_settings(config),
        inputs={"embeddings": store.fingerprint, "lists": lists.fingerprint, **fingerprint_sources(config)},
        overwrite=config.overwrite,
    )
    runs = make_run_tree(stage, config, store, lists)
    end = partial(runs.end, files_of=lambda name: [output / FITS / name / HISTORY])
    with runs.open(end):
        manifest = stage.done or fit_and_evaluate(stage, with_absolute_paths(config), store, runs)
    print_means(json.loads((output / "summary.json").read_text())["rows"])
    print(f"baselines: {manifest.counts['fits']} fits in {output}")
    return manifest


def check_inputs(config: BaselinesConfig, store: EmbeddingStore, lists: Manifest) -> None:
    """Refuse what cannot work before anything is started."""
    if lists.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"{resolve(config.lists)}: these lists were mined from other embeddings than {store.directory}")
    folder = resolve(config.lists)
    check_galleries(config.galleries, len(reported_images(folder)), reported_split(folder))
    fitted_images(config, store)
    BaselineFeatures.open(config, store)


def with_absolute_paths(config: BaselinesConfig) -> BaselinesConfig:
    """The configuration as workers elsewhere can read it."""
    paths: dict[str, Any] = {name: resolve(path) for name, path in vars(config).items() if isinstance(path, Path)}
    return dataclasses.replace(config, **paths)


def make_run_tree(stage: StageDirectory, config: BaselinesConfig, store: EmbeddingStore, lists: Manifest) -> RunTree:
    """The MLflow runs of the stage; none is begun yet."""
    return RunTree(
        stage.directory,
        STAGE,
        name=f"{STAGE} {stage.directory.parent.name}",
        tags={"encoder": str(store.encoder["name"]), "dataset": store.dataset, "candidates": lists.fingerprint},
        params=describe_settings(config),
        inputs=stage.inputs,
    )


def fit_and_evaluate(stage: StageDirectory, config: BaselinesConfig, store: EmbeddingStore, runs: RunTree) -> Manifest:
    """Fit and evaluate what is missing, and finish the stage."""
    fits, output = list_fits(config), stage.directory
    # Workers begin the runs, so that each lasts as long as its fit.
    planned = {fit.name: plan_run(runs, config, fit) for fit in fits}
    runs.log_config(format_config(config, STAGE))
    job = FittingJob(config, output, fits, stage.work / "failures", planned)
    with watch_fits(job):
        fit_on_cluster(job, stage.work / "ray")
    rows = evaluate_all(stage, config, fits)
    log_means(runs, rows)
    described = {"split": reported_split(config.lists), "galleries": config.galleries}
    write_json(output / "summary.json", {"rows": rows, **described})
    counts = {
        "fits": len(fits),
        "methods": len({fit.method for fit in fits}),
        "images": len(fitted_images(config, store)),
    }
    return stage.finish(counts=counts, settings={"tie_rule": TIE_RULE, "threads": 1})


def evaluate_all(stage: StageDirectory, config: BaselinesConfig, fits: list[BaselineFit]) -> list[dict[str, Any]]:
    """Evaluate the fits that are not evaluated, and join the tables; returns the summary's rows."""
    tasks = [task_of(stage, config, fit, direction) for fit in fits for direction in DIRECTIONS]
    run_evaluation(tasks, stage.directory)
    return read_rows(tasks, "summary")


def task_of(stage: StageDirectory, config: BaselinesConfig, fit: BaselineFit, direction: Any) -> EvaluationTask:
    """The evaluation of one fit in one direction."""
    return EvaluationTask(
        f"{fit.name}-{direction}",
        direction,
        BaselineScorer(directory_of(stage.directory, fit), config),
        embeddings=config.embeddings,
        lists=config.lists,
        work=stage.work,
        top_n=(config.top_n,),
        galleries=config.galleries,
        trec=config.trec,
        trec_folder=stage.directory / TREC,
        with_qrels=fit == list_fits(config)[0],
    )


def plan_run(runs: RunTree, config: BaselinesConfig, fit: BaselineFit) -> PlannedRun:
    """The MLflow run of a fit, which begins with the fit."""
    settings = vars(settings_of(config, fit.baseline, fit.method))
    params = {**vars(fit), **settings, "fit_splits": config.fit_splits}
    return runs.plan_child(fit.name, tags={"loss": fit.method}, params=params)


def log_means(runs: RunTree, rows: list[dict[str, Any]]) -> None:
    """Log every fit's means to its run."""
    # Collected first, because one call logs many metrics of a run.
    metrics: dict[str, dict[str, float]] = {}
    for row in rows:
        name = row["method"] + (f"-seed{row['seed']}" if row["seed"] >= 0 else "")
        if row["mean"] is not None:
            metrics.setdefault(name, {})[tracked_name(row)] = row["mean"]
    for name, values in metrics.items():
        runs.log_metrics(name, values)


def print_means(rows: list[dict[str, Any]]) -> None:
    """A line for each method, direction and protocol: hit@1, hit@5 and hit@10 in percent, means over seeds."""
    by_method: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        key = row["protocol"], row["direction"], row["method"]
        if row["metric"] in SHOWN and row["mean"] is not None:
            by_method.setdefault(key, {}).setdefault(row["metric"], []).append(100 * row["mean"])
    for (protocol, direction, method), metrics in sorted(by_method.items()):
        figures = " / ".join(f"{sum(v) / len(v):.1f}" for v in (metrics[name] for name in SHOWN))
        print(f"{protocol} {direction} {method}: hit@1/5/10 {figures} %")
