"""The search: all points of every group, and of rankers the best of them again with several seeds."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xmrank.config import TuneConfig
from xmrank.config.printing import format_config
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.files import write_json
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.tracking.run_tree import TRACKING, RunTree
from xmrank.train.stage import train
from xmrank.tune.baseline_target import BaselineTarget
from xmrank.tune.points import SearchFolder, find_best
from xmrank.tune.ranker_target import RankerTarget
from xmrank.tune.ray import search_optuna, search_points
from xmrank.tune.search_job import SearchJob, end_point_run
from xmrank.tune.search_target import PointResult, SearchGroup, SearchPoint, SearchTarget
from xmrank.tune.space import list_points
from xmrank.tune.supervised_target import SupervisedTarget

STAGE = "tune"
BEST = "best.json"
RESULTS = "results.json"
POINTS = "points"
REASONS = 3
"""Different reasons of failures that the last line names at most."""


def tune(config: TuneConfig) -> Manifest:
    """Search settings; of rankers, train the best ones of every loss and direction with the seeds of ``--repeats``.

    Only validation decides. A point that is done is never tried again; one that was interrupted goes on where its
    target can, or starts again.

    Returns:
        The manifest of the rankers, which ``jobs/evaluate.py`` takes; of the search, for other targets.

    Raises:
        ConfigError: a space or setting that is not possible.
        DataError: inputs that are not finished, or a group all of whose points failed.
    """
    target = open_target(config)
    groups = target.list_groups()
    output = resolve(config.output)
    values = {name: getattr(config, name) for name in ("target", "search", "space", "samples", "seed")}
    values |= {"scheduler": config.scheduler, "grace": config.grace, target.name: target.describe_config()}
    stage = StageDirectory.open(
        output / "search", STAGE, config=values, inputs=target.inputs, overwrite=config.overwrite
    )
    runs = RunTree(
        output,
        STAGE,
        tags=target.tags,
        params={"search": config.search, "space": " ".join(config.space), "seed": config.seed},
        inputs=target.inputs,
    )
    with runs.open():
        # A finished search is not repeated, but its best rankers may still have to be trained.
        manifest = stage.done or search_groups(stage, config, target, groups, runs)
        print_best(groups, json.loads((stage.directory / RESULTS).read_text()))
        ending = f"tune: {manifest.counts['points']} points in {stage.directory}{describe_failures(manifest.left_out)}"
        if config.target == "rankers":
            manifest = train_best(config, output, runs)
        print(ending)
    return manifest


def open_target(config: TuneConfig) -> SearchTarget:
    """What ``--target`` names, with its inputs checked."""
    if config.target == "baselines":
        return BaselineTarget.open_inputs(config)
    if config.target == "supervised":
        return SupervisedTarget.open_inputs(config)
    return RankerTarget.open_inputs(config)


def train_best(config: TuneConfig, output: Path, runs: RunTree) -> Manifest:
    """Train rankers with the best settings, a training for each seed of ``--repeats``."""
    repeats = dataclasses.replace(
        config.train,
        embeddings=config.embeddings,
        lists=config.lists,
        seeds=config.repeats,
        best=output / "search" / BEST,
        output=output / "rankers",
        worker_timeout=config.worker_timeout,
        overwrite=config.overwrite,
    )
    return train(repeats, runs.begin_parent)


def search_groups(
    stage: StageDirectory, config: TuneConfig, target: SearchTarget, groups: list[SearchGroup], runs: RunTree
) -> Manifest:
    """Try the points that are not done, and finish the stage."""
    runs.begin_parent()
    runs.log_config(format_config(config, STAGE))
    points = SearchFolder(stage.directory / POINTS)
    job = SearchJob(config, target, points, stage.work, runs)
    try:
        if config.search == "optuna":
            results = run_optuna(job, groups)
        else:
            results = run_known(job, list_all_points(target, groups, config))
    finally:
        close_point_runs(job)
    best, counts = {}, {}
    for group in groups:
        # Results of all groups lie in one list; a group's are those with its labels.
        own = [result for result in results if result.labels == group.labels]
        best[group.title], counts[group.title] = find_best(group, own), len(own)
    write_json(stage.directory / BEST, target.write_best(best, counts))
    write_json(stage.directory / RESULTS, [result.as_row() for result in results])
    left_out = [
        {"point": result.settings, **result.labels, "reason": result.failure} for result in results if result.failure
    ]
    stopped = sum(result.stopped for result in results)
    points.remove_reports()
    return stage.finish(counts={"points": len(results), "failed": len(left_out), "stopped": stopped}, left_out=left_out)


def list_all_points(target: SearchTarget, groups: list[SearchGroup], config: TuneConfig) -> list[SearchPoint]:
    """All points of a grid or a random search, by group; each once, the first of those that are equal."""
    points: dict[str, SearchPoint] = {}
    for group in groups:
        for settings in list_points(group.space, config):
            point = target.make_point(group, settings)
            # The first of equal points stays, so that ties go to the earliest in the search's order.
            points.setdefault(point.name, point)
    return list(points.values())


def run_known(job: SearchJob, points: list[SearchPoint]) -> list[PointResult]:
    """The results of points that are known from the start."""
    if not all(job.points.is_done(point) for point in points):
        search_points(job, points)
    return [job.points.require_result(point) for point in points]


def run_optuna(job: SearchJob, groups: list[SearchGroup]) -> list[PointResult]:
    """The results of Optuna's proposals, by the names of the points: no order in which they came is kept."""
    results = []
    for group in groups:
        if not group.space:  # nothing is searched for it: its one point is known
            results += run_known(job, [job.target.make_point(group, {})])
            continue
        study = job.open_study(group)
        if len(study.list_told()) < job.config.samples:
            search_optuna(job, group, study)
        results += job.points.list_results(group)
    return results


def close_point_runs(job: SearchJob) -> None:
    """End the runs of points that nothing ended: their process may have been killed."""
    for path in job.points.folder.glob(f"*/{TRACKING}"):
        done = (path.parent / "result.json").exists()
        end_point_run(job, path.parent, failed=not done)


def describe_failures(left_out: Sequence[Mapping[str, Any]]) -> str:
    """How many points failed, and why, the most frequent reasons first; empty where none failed."""
    if not left_out:
        return ""
    counts = Counter(str(row["reason"]) for row in left_out)
    reasons = [f"{count} × {reason}" for reason, count in counts.most_common(REASONS)]
    more = f"; others: see {RESULTS}" if len(counts) > REASONS else ""
    return f"; {len(left_out)} failed: {'; '.join(reasons)}{more}"


def print_best(groups: list[SearchGroup], rows: list[dict[str, object]]) -> None:
    """Print the best point of every group."""
    results = [PointResult.from_row(row) for row in rows]
    for group in groups:
        own = [result for result in results if result.labels == group.labels]
        best = find_best(group, own)
        assert best.value is not None
        settings = ", ".join(f"{name} {value}" for name, value in best.settings.items())
        print(f"best {group.title}: {100 * best.value:.1f} % of {len(own)} points: {settings}")
