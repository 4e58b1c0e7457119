"""The search's Ray part: points as trials of Ray Tune, whatever it is whose settings are searched."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune import Callback, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from xmrank.config import TuneConfig as SearchConfig
from xmrank.runtime.cluster import connect
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json
from xmrank.runtime.progress import Progress
from xmrank.tracking.run_tree import RunTree
from xmrank.tune.points import SearchFolder
from xmrank.tune.search_target import EPOCHS, PointResult, SearchGroup, SearchPoint, SearchTarget
from xmrank.tune.space import NumberRange, Space

METRIC = "value"
"""What a trial of Ray Tune reports."""


@dataclass(frozen=True)
class SearchJob:
    """All that a worker needs to know.

    Attributes:
        config: of the search.
        target: what is searched.
        points: the folder of the points.
        cache: folder that all points share.
        runs: the search's MLflow runs; a point's are kept in its own folder.
    """

    config: SearchConfig
    target: SearchTarget
    points: SearchFolder
    cache: Path
    runs: RunTree


PointOf = Callable[[dict[str, Any]], SearchPoint]
"""Makes the point of what Ray Tune gives to a trial."""


def search_points(job: SearchJob, pending: list[SearchPoint], total: int, scratch: Path) -> None:
    """Try points that are known from the start.

    With a scheduler, every group is a run of Ray Tune of its own: only its points compete.

    Args:
        job: the search.
        pending: points that are not done.
        total: how many there are with those that are done.
        scratch: folder for Ray's own files.
    """
    batches: dict[object, list[SearchPoint]] = {}
    for point in pending:
        key = point.group.title if job.config.scheduler != "none" else None
        batches.setdefault(key, []).append(point)
    with Progress("search (points)", total, total - len(pending)) as progress:
        for batch in batches.values():
            by_name = {point.name: point for point in batch}
            space = {"name": tune.grid_search(list(by_name))}
            run_tuner(job, batch[0].group, partial(find_point, by_name), space, 1, None, progress, scratch)


def search_optuna(job: SearchJob, group: SearchGroup, done: list[PointResult], scratch: Path) -> None:
    """Try points that Optuna proposes; the results of earlier calls are told to it first.

    Args:
        job: the search.
        group: whose points.
        done: results of earlier calls.
        scratch: folder for Ray's own files.
    """
    missing = job.config.samples - len(done)
    told = [result for result in done if result.value is not None]
    # A continued search needs another seed, else it would propose the same points again.
    seed = job.config.seed + len(done)
    if told:
        algorithm = OptunaSearch(
            metric=METRIC,
            mode="max",
            seed=seed,
            space=make_distributions(group.space),
            points_to_evaluate=[{name: result.settings[name] for name in group.space} for result in told],
            evaluated_rewards=[result.value for result in told],
        )
        space = None
    else:
        algorithm = OptunaSearch(metric=METRIC, mode="max", seed=seed)
        space = {name: make_domain(values) for name, values in group.space.items()}
    with Progress(f"search {group.title}", job.config.samples, len(done)) as progress:
        point_of = partial(make_proposed_point, job.target, group)
        run_tuner(job, group, point_of, space, missing, algorithm, progress, scratch)


def find_point(by_name: dict[str, SearchPoint], given: dict[str, Any]) -> SearchPoint:
    """The point of a name."""
    return by_name[given["name"]]


def make_proposed_point(target: SearchTarget, group: SearchGroup, given: dict[str, Any]) -> SearchPoint:
    """The point that an algorithm proposes."""
    return target.make_point(group, dict(given))


def make_domain(values: list[Any] | NumberRange) -> Any:
    """Values or a range as Ray Tune's."""
    if isinstance(values, list):
        return tune.choice(values)
    return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)


def make_distributions(space: Space) -> dict[str, Any]:
    """The space as Optuna's, which takes earlier results only with it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    distributions: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, list):
            distributions[name] = CategoricalDistribution(values)
        else:
            distributions[name] = FloatDistribution(values.low, values.high, log=values.log)
    return distributions


def run_tuner(
    job: SearchJob,
    group: SearchGroup,
    point_of: PointOf,
    space: dict[str, Any] | None,
    samples: int,
    algorithm: OptunaSearch | None,
    progress: Progress,
    scratch: Path,
) -> None:
    """One run of Ray Tune."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # else an interrupted search ends like a done one
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # its own CSV and JSON files: results are ours
    connect()
    workers, resources = divide_resources(job.config.workers)
    scheduler = None
    if job.config.scheduler == "asha":
        longest = job.target.count_epochs(group) + 1  # a point ends by itself before the scheduler would end it
        scheduler = ASHAScheduler(max_t=longest, grace_period=min(job.config.grace, longest))
    # The algorithm has the metric already; Ray Tune refuses it a second time unless a scheduler needs it too.
    metric = {} if algorithm and not scheduler else {"metric": METRIC, "mode": "max"}
    trainable = tune.with_parameters(try_point, job=job, point_of=point_of)
    Tuner(
        tune.with_resources(trainable, resources),
        param_space=space,
        tune_config=TuneConfig(
            num_samples=samples,
            search_alg=algorithm,
            scheduler=scheduler,
            max_concurrent_trials=workers,
            reuse_actors=True,
            **metric,
        ),
        run_config=RunConfig(storage_path=str(scratch), verbose=0, callbacks=[SearchWatcher(job, point_of, progress)]),
    ).fit()


def divide_resources(requested: int) -> tuple[int, dict[str, float]]:
    """How many points run at a time, and what each holds of the cluster.

    Args:
        requested: the user's number, or 0: one a GPU, or one a core without GPUs.
    """
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    workers = requested or int(gpus) or max(1, int(cpus))
    share = {"cpu": min(1.0, int(10_000 * cpus / workers) / 10_000)}
    if gpus:
        share["gpu"] = min(1.0, int(10_000 * gpus / workers) / 10_000)
    return workers, share


def try_point(given: dict[str, Any], job: SearchJob, point_of: PointOf) -> None:
    """A trial of Ray Tune: try one point, from where an earlier call left it."""
    torch.set_num_threads(1)
    point = point_of(given)
    done = job.points.read_result(point)
    if done is not None:  # an algorithm may propose a point again
        tune.report({METRIC: done.value or 0.0})
        return
    folder = job.points.folder_of(point)
    run = job.runs.branch_off(folder)
    run.begin_child(
        point.name, tags=point.group.labels, params={**job.target.describe_run(point), **point.group.labels}
    )
    values: list[float] = []

    def report_epoch(step: int, metrics: Mapping[str, float], value: float) -> None:
        run.log_metrics(point.name, metrics, step=step)
        values.append(value)
        write_json(folder / EPOCHS, values)  # before the report, within which a scheduler may end this process
        tune.report({METRIC: value})

    try:
        outcome = job.target.run_point(point, folder, job.cache, report_epoch)
    except DataError as error:
        job.points.write_failure(point, str(error))
        job.target.remove_state(point, folder)
        run.end_child(point.name, failed=True)
        tune.report({METRIC: 0.0})  # a scheduler or a search algorithm needs a figure
        return
    if outcome.figures:
        run.log_metrics(point.name, outcome.figures)
    # A process that was killed may have saved an epoch and not logged it.
    run.log_history(point.name, job.target.list_epochs(folder))
    job.points.write_outcome(point, outcome)
    job.target.remove_state(point, folder)
    run.end_child(point.name)
    if not values:
        tune.report({METRIC: outcome.value})  # solved in one go, without epochs


class SearchWatcher(Callback):  # type: ignore[misc]
    """Counts finished points, and writes the result of those that the scheduler stopped."""

    def __init__(self, job: SearchJob, point_of: PointOf, progress: Progress) -> None:
        self.job, self.point_of, self.progress = job, point_of, progress

    def on_trial_complete(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called on the driver."""
        point = self.point_of({name: value for name, value in trial.config.items() if not callable(value)})
        if self.job.points.read_result(point) is None:
            close_stopped(self.job, point)
        self.progress.advance(1, note=point.name)


def close_stopped(job: SearchJob, point: SearchPoint) -> None:
    """Write the result of a point that the scheduler stopped, and end its MLflow run.

    Raises:
        DataError: the point left nothing: it was not stopped after an epoch, but interrupted.
    """
    folder = job.points.folder_of(point)
    outcome = job.target.read_stopped(point, folder)
    if outcome is None:
        raise DataError(f"{folder}: no finished training of {point.name}")
    job.points.write_outcome(point, outcome, stopped=True)
    end_point_run(job, folder, failed=False)
    job.target.remove_state(point, folder)


def end_point_run(job: SearchJob, folder: Path, *, failed: bool) -> None:
    """Complete and end the MLflow run of a point that nothing ended: its process may have been killed.

    Args:
        job: the search.
        folder: of the point.
        failed: how it ends.
    """
    run = job.runs.branch_off(folder)
    for key in run.ids:
        if run.is_open(key):
            run.log_history(key, job.target.list_epochs(folder))
    run.end(failed=failed)
