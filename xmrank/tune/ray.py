"""The search's Ray part: points as trials of Ray Tune, whatever it is whose settings are searched."""

import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
import torch
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from xmrank.runtime.cluster import UNITS, connect, count_gpus, describe_resources, fit_share
from xmrank.runtime.device import name_device
from xmrank.runtime.errors import XmrankError, describe_error, find_cause, is_permanent
from xmrank.runtime.files import write_json
from xmrank.runtime.progress import Progress, show_activity
from xmrank.runtime.storage import drop_scratch, scratch_folder
from xmrank.tune.proposals import ProposalStudy
from xmrank.tune.search_job import SearchJob, close_stopped, end_point_run
from xmrank.tune.search_target import EPOCHS, SearchGroup, SearchPoint, SearchTarget, title_of
from xmrank.tune.space import Point

METRIC = "value"
"""What a trial of Ray Tune reports: the figure of an epoch."""
HIGHEST = "highest"
"""Reported beside it: the highest figure so far, which an algorithm is told in the end."""
REPORTS = "reports"
"""Reported beside it: the number of the report, from 1, also when some of them were made before an interruption."""
REPEATS = 3
"""How often a point is tried again whose process was lost."""


PointOf = Callable[[dict[str, Any]], SearchPoint]
"""Makes the point of what Ray Tune gives to a trial."""


@dataclass(frozen=True)
class PointBatch:
    """Points that one run of Ray Tune tries.

    Attributes:
        group: of the points.
        point_of: makes the point of what Ray Tune gives to a trial.
        earlier: points of the group that were tried before: a scheduler compares with them.
    """

    group: SearchGroup
    point_of: PointOf
    earlier: Sequence[SearchPoint]


def search_points(job: SearchJob, points: list[SearchPoint]) -> None:
    """Try points that are known from the start, those that are not done.

    With a scheduler, every group is a run of Ray Tune of its own: only its points compete.

    Args:
        job: the search.
        points: all points, in the search's order.
    """
    pending = [point for point in points if not job.points.is_done(point)]
    batches: dict[object, list[SearchPoint]] = {}
    for point in pending:
        key = point.group.title if job.config.scheduler != "none" else None
        batches.setdefault(key, []).append(point)
    with Progress("search (points)", len(points), len(points) - len(pending)) as progress:
        for batch in batches.values():
            group, by_name = batch[0].group, {point.name: point for point in batch}
            earlier = [point for point in points if point.group == group and point.name not in by_name]
            space = {"name": tune.grid_search(list(by_name))}
            run_tuner(job, PointBatch(group, partial(find_point, by_name), earlier), progress, space=space)


def search_optuna(job: SearchJob, group: SearchGroup, study: ProposalStudy) -> None:
    """Try points that Optuna proposes, until it was told the results of all samples.

    Args:
        job: the search.
        group: whose points.
        study: proposes, and knows the results of earlier calls.
    """
    told = study.list_told()
    # A proposal may be that of a point that was tried before, which then counts for the scheduler a second time.
    earlier = [job.target.make_point(group, proposal.settings) for proposal in told]
    with Progress(f"search {group.title}", job.config.samples, len(told)) as progress:
        batch = PointBatch(group, partial(make_proposed_point, job.target, group), earlier)
        missing = job.config.samples - len(told)
        run_tuner(job, batch, progress, samples=missing, algorithm=StudySearcher(study))


class StudySearcher(Searcher):  # type: ignore[misc]
    """Hands Ray Tune the proposals of a study."""

    def __init__(self, study: ProposalStudy) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.study = study
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Point:
        """The settings of the next trial."""
        self.numbers[trial_id], settings = self.study.propose()
        return settings

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study the highest figure of a trial: what its best epoch came to."""
        value = None if error or not result else float(result[HIGHEST])
        self.study.tell(self.numbers.pop(trial_id), value)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is on disk."""


def find_point(by_name: dict[str, SearchPoint], given: dict[str, Any]) -> SearchPoint:
    """The point of a name."""
    return by_name[given["name"]]


def make_proposed_point(target: SearchTarget, group: SearchGroup, given: dict[str, Any]) -> SearchPoint:
    """The point that an algorithm proposes."""
    return target.make_point(group, dict(given))


def run_tuner(
    job: SearchJob,
    batch: PointBatch,
    progress: Progress,
    *,
    space: dict[str, Any] | None = None,
    samples: int = 1,
    algorithm: Searcher | None = None,
) -> None:
    """One run of Ray Tune.

    Args:
        job: the search.
        batch: what is tried.
        progress: counts the points.
        space: of a search without an algorithm.
        samples: number of trials for each point of the space, or of all trials of an algorithm.
        algorithm: proposes the trials.

    Raises:
        XmrankError: no worker is left to try a point.
        OSError: a full disk, or a missing permission.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # else an interrupted search ends like a done one
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # its own CSV and JSON files: results are ours
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a traceback for each lost process; one line is enough
    connect()
    workers, resources = divide_resources(job.config.workers)
    show_activity("the results of points", workers, name_device(resources.get("gpu", 0)))
    trainable = tune.with_parameters(try_point, job=job, point_of=batch.point_of)
    Tuner(
        tune.with_resources(trainable, resources),
        param_space=space,
        tune_config=TuneConfig(
            num_samples=samples,
            search_alg=algorithm,
            scheduler=make_scheduler(job, batch),
            max_concurrent_trials=workers,
            reuse_actors=True,
        ),
        run_config=RunConfig(
            storage_path=str(scratch_folder(job.work / "ray")),
            verbose=0,
            callbacks=[SearchWatcher(job, batch.point_of, progress)],
            # A point whose process is lost goes on in another one.
            failure_config=FailureConfig(max_failures=REPEATS),
        ),
    ).fit()
    drop_scratch(job.work / "ray")


def make_scheduler(job: SearchJob, batch: PointBatch) -> ASHAScheduler | None:
    """The scheduler, which knows what earlier points of the group have reported; None: nothing stops a point."""
    if job.config.scheduler == "none":
        return None
    longest = job.target.count_epochs(batch.group) + 1
    scheduler = ASHAScheduler(
        time_attr=REPORTS,
        metric=METRIC,
        mode="max",
        max_t=longest,
        grace_period=min(job.config.grace, longest),
        stop_last_trials=False,  # a point ends by itself
    )
    for number, point in enumerate(batch.earlier):
        trial = SimpleNamespace(trial_id=f"earlier-{number}")
        scheduler.on_trial_add(None, trial)
        for report in list_reports(job.points.read_reports(point)):
            scheduler.on_trial_result(None, trial, report)
    return scheduler


def list_reports(values: Sequence[float]) -> list[dict[str, float]]:
    """What Ray Tune is told of a point after each of its epochs."""
    return [
        {METRIC: value, HIGHEST: max(values[:count]), REPORTS: count} for count, value in enumerate(values, start=1)
    ]


def divide_resources(requested: int) -> tuple[int, dict[str, float]]:
    """How many points run at a time, and what each holds of the cluster.

    Args:
        requested: the user's number, or 0: one a GPU, or one a core without GPUs.
    """
    cpus, gpus = ray.cluster_resources().get("CPU", 1.0), count_gpus()
    workers = requested or int(gpus) or max(1, int(cpus))
    held = {"CPU": min(1.0, int(UNITS * cpus / workers) / UNITS)}
    if gpus:
        held["GPU"] = min(1.0, int(UNITS * gpus / workers) / UNITS)
        held["GPU"] = fit_share({"GPU": held["GPU"]}, "GPU", workers)
    held["CPU"] = fit_share(held, "CPU", workers)
    return workers, {kind.lower(): share for kind, share in held.items()}


def try_point(given: dict[str, Any], job: SearchJob, point_of: PointOf) -> None:
    """A trial of Ray Tune: try one point, from where an earlier call left it.

    Raises:
        OSError: of the system, which is no fault of the point: Ray Tune tries it again.
    """
    torch.set_num_threads(1)
    point = point_of(given)
    if job.points.is_done(point):  # proposed again, or finished shortly before an interruption
        for report in list_reports(job.points.read_reports(point)):
            tune.report(report)
        return
    folder = job.points.folder_of(point)
    run = job.runs.branch_off(folder)
    labels = point.group.labels
    params = {**job.target.describe_run(point), **labels}
    run.begin_child(point.name, name=title_of(point), tags={**labels, "point": point.name}, params=params)
    values: list[float] = []

    def report_value(value: float) -> None:
        values.append(0.0 if math.isnan(value) else value)
        write_json(folder / EPOCHS, values)  # before the report, within which a scheduler may end this process
        tune.report(list_reports(values)[-1])

    def report_epoch(step: int, metrics: Mapping[str, float], value: float) -> None:
        run.log_metrics(point.name, metrics, step=step)
        report_value(value)

    try:
        # A scheduler compares points by the numbers of their epochs, so that those of an interrupted call count.
        for value in job.target.list_reported(point, folder):
            report_value(value)
        outcome = job.target.run_point(point, folder, job.work / "lists", report_epoch)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        if not isinstance(error, XmrankError):
            traceback.print_exc()  # a bug: Ray's log folder keeps where it happened
        job.points.write_failure(point, describe_error(error), try_again=not isinstance(error, XmrankError))
        job.target.remove_state(point, folder)
        run.end_child(point.name, failed=True)
        report_value(0.0)  # a scheduler or a search algorithm needs a figure
        return
    run.log_metrics(point.name, job.target.describe_outcome(outcome) | outcome.figures)
    # A process that was killed may have saved an epoch and not logged it.
    run.log_history(point.name, job.target.list_epochs(folder))
    solved_at_once = not values
    if solved_at_once:
        values.append(outcome.value)
        write_json(folder / EPOCHS, values)
    job.points.write_outcome(point, outcome)
    job.target.remove_state(point, folder)
    run.end_child(point.name)
    if solved_at_once:  # last, since a scheduler may end this process: what has no epochs is never stopped
        tune.report(list_reports(values)[-1])


class SearchWatcher(Callback):  # type: ignore[misc]
    """Counts finished points, and writes the result of those that the scheduler stopped or whose processes died."""

    def __init__(self, job: SearchJob, point_of: PointOf, progress: Progress) -> None:
        self.job, self.point_of, self.progress = job, point_of, progress
        self.last_running = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles its callbacks to restore a run, which is never done here; a progress line has threads.
        return {**vars(self), "progress": None}

    def point_of_trial(self, trial: Any) -> SearchPoint:
        """The point of a trial of Ray Tune."""
        return self.point_of({name: value for name, value in trial.config.items() if not callable(value)})

    def on_step_begin(self, iteration: int, trials: Iterable[Any], **info: Any) -> None:  # noqa: ARG002
        """End a search whose points no process takes, as on a cluster that has lost its nodes.

        Raises:
            XmrankError: for too long.
        """
        now, timeout = time.monotonic(), self.job.config.worker_timeout
        if any(trial.status == "RUNNING" for trial in trials):
            self.last_running = now
        if now - self.last_running > timeout:
            raise XmrankError(
                f"no process of the cluster took a point within {timeout:g} s (--worker-timeout); it has "
                f"{describe_resources()}; the same command continues"
            )

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **info: Any) -> None:  # noqa: ARG002
        """Called on the driver after each epoch of a point: a point may take minutes."""
        name = self.point_of_trial(trial).name
        self.progress.advance(0, note=f"{name} epoch {result[REPORTS]}: validation {result[METRIC]:.4f}")

    def on_trial_complete(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called on the driver."""
        point = self.point_of_trial(trial)
        if self.job.points.read_result(point) is None:
            close_stopped(self.job, point)
        self.progress.advance(1, note=point.name)

    def on_trial_recover(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called on the driver when a point is to be tried again.

        Raises:
            OSError: the cause, where it would be the same again.
        """
        cause = read_cause(trial)
        if is_permanent(cause):
            raise cause
        name = self.point_of_trial(trial).name
        print(f"tune: {name} is tried again: {describe_error(cause)}", file=sys.stderr, flush=True)

    def on_trial_error(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called on the driver when a point was tried too often."""
        point = self.point_of_trial(trial)
        if not self.job.points.is_done(point):
            reason = f"{REPEATS + 1} processes failed: {describe_error(read_cause(trial))}"
            self.job.points.write_failure(point, reason, try_again=True)
            end_point_run(self.job, self.job.points.folder_of(point), failed=True)
        self.progress.advance(1, note=point.name)


def read_cause(trial: Any) -> BaseException:
    """Why a trial of Ray Tune failed last."""
    # Its method for this looks where the file is copied to later.
    path = Path(trial.pickled_error_file or "")
    return find_cause(ray.cloudpickle.loads(path.read_bytes()) if path.is_file() else RuntimeError("unknown"))
