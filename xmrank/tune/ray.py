"""The search's Ray part: points as trials of Ray Tune."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune import Callback, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from xmrank import tracking
from xmrank.config import Direction, TrainConfig
from xmrank.config import TuneConfig as SearchConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.metrics import mlflow_name
from xmrank.mine.list_paths import lists_path
from xmrank.mine.mapped_lists import open_lists
from xmrank.runtime.cluster import connect
from xmrank.runtime.progress import Progress
from xmrank.train.list_data import ListData
from xmrank.train.schedule import Epoch
from xmrank.train.settings import list_params, with_point
from xmrank.train.trainer import TrainingJob, train_trials
from xmrank.train.trial_data import TrialDataSource
from xmrank.train.trials import Trial
from xmrank.train.worker_group import WorkerGroup
from xmrank.tune.points import PointResult, SearchFolder
from xmrank.tune.space import NumberRange, SearchPoint, Space

METRIC = "validation_mean"


@dataclass(frozen=True)
class SearchJob:
    """All that a worker needs to know.

    Attributes:
        embeddings, lists: absolute paths.
        cache: folder for lists that are too large for memory.
        home, uri, parent, tags: of MLflow.
    """

    config: SearchConfig
    embeddings: Path
    lists: Path
    cache: Path
    points: SearchFolder
    home: Path
    uri: str
    parent: str
    tags: dict[str, str]
    inputs: dict[str, str]

    def settings(self, candidate: SearchPoint) -> TrainConfig:
        """A point's configuration."""
        return with_point(self.config.train, candidate.loss, candidate.point)


def search_points(work: SearchJob, left: list[SearchPoint], total: int, scratch: Path) -> None:
    """Train points that are known from the start.

    With a scheduler, every loss and direction is a run of its own: only its points compete.
    """
    groups: dict[object, list[SearchPoint]] = {}
    for candidate in left:
        key = (candidate.loss, candidate.direction) if work.config.scheduler != "none" else None
        groups.setdefault(key, []).append(candidate)
    with Progress("search (points)", total, total - len(left)) as progress:
        for group in groups.values():
            known = {candidate.name: candidate for candidate in group}
            space = {"name": tune.grid_search(list(known))}
            run(work, partial(known_point, known), space, 1, None, progress, scratch)


def search_optuna(
    work: SearchJob, loss: str, direction: Direction, space: Space, done: list[PointResult], scratch: Path
) -> None:
    """Train points that Optuna proposes; what earlier runs found is told to it first."""
    left = work.config.samples - len(done)
    told = [result for result in done if result.value is not None]
    algorithm = OptunaSearch(
        metric=METRIC,
        mode="max",
        seed=work.config.seed + len(done),  # else a continued search would propose the same points again
        space=None if not told else optuna_space(space),
        points_to_evaluate=[result.settings for result in told] or None,
        evaluated_rewards=[result.value for result in told] or None,
    )
    given = None if told else {name: tune_values(values) for name, values in space.items()}
    with Progress(f"search {loss} {direction}", work.config.samples, len(done)) as progress:
        run(work, partial(proposed_point, loss, direction), given, left, algorithm, progress, scratch)


def known_point(known: dict[str, SearchPoint], given: dict[str, Any]) -> SearchPoint:
    """The point of a name."""
    return known[given["name"]]


def proposed_point(loss: str, direction: Direction, given: dict[str, Any]) -> SearchPoint:
    """The point that an algorithm proposes."""
    return SearchPoint(loss, direction, dict(given))


def tune_values(values: list[Any] | NumberRange) -> Any:
    """Values or a range as Tune's."""
    if isinstance(values, list):
        return tune.choice(values)
    return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)


def optuna_space(space: Space) -> dict[str, Any]:
    """The space as Optuna's, which takes earlier results only with it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        name: CategoricalDistribution(v) if isinstance(v, list) else FloatDistribution(v.low, v.high, log=v.log)
        for name, v in space.items()
    }


def run(
    work: SearchJob,
    candidate_of: Callable[[dict[str, Any]], SearchPoint],
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
    workers, share = shares(work.config.workers)
    scheduler = None
    if work.config.scheduler == "asha":
        longest = work.config.train.epochs + 1  # a training ends by itself before the scheduler would end it
        scheduler = ASHAScheduler(max_t=longest, grace_period=min(work.config.grace, longest))
    trainable = tune.with_parameters(train_point, work=work, candidate_of=candidate_of)
    metric = {} if algorithm else {"metric": METRIC, "mode": "max"}  # the algorithm has them already
    Tuner(
        tune.with_resources(trainable, share),
        param_space=space,
        tune_config=TuneConfig(
            num_samples=samples,
            search_alg=algorithm,
            scheduler=scheduler,
            max_concurrent_trials=workers,
            reuse_actors=True,
            **(metric if not (algorithm and scheduler) else {"metric": METRIC, "mode": "max"}),
        ),
        run_config=RunConfig(
            storage_path=str(scratch), verbose=0, callbacks=[SearchWatcher(work, candidate_of, progress)]
        ),
    ).fit()


def shares(requested: int) -> tuple[int, dict[str, float]]:
    """How many points train at a time, and what each holds of the cluster."""
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    workers = requested or int(gpus) or max(1, int(cpus))
    share = {"cpu": min(1.0, int(10_000 * cpus / workers) / 10_000)}
    if gpus:
        share["gpu"] = min(1.0, int(10_000 * gpus / workers) / 10_000)
    return workers, share


def train_point(given: dict[str, Any], work: SearchJob, candidate_of: Callable[[dict[str, Any]], SearchPoint]) -> None:
    """A trial of Tune: train one point, from where an earlier run left it."""
    torch.set_num_threads(1)
    candidate = candidate_of(given)
    settings, place, trial = work.settings(candidate), work.points.place(candidate), work.points.trial(candidate)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, validation = data_of(work.embeddings, work.lists, work.cache, trial.direction, device)
    store = EmbeddingStore.open(work.embeddings)
    courses = TrialDataSource.open(train, validation, store, work.lists, trial.direction, settings)
    run_id = begin_run(work, candidate, settings)

    def log(_trial: Trial, epoch: Epoch, seconds: float) -> None:
        metrics = {mlflow_name(n).replace("_", "/", 1): v for n, v in epoch.items() if n not in ("epoch", "step")}
        metrics |= {"cost/epoch_seconds": seconds, "cost/lists_per_second": len(courses) / seconds}
        tracking.log_metrics(work.uri, run_id, metrics, step=int(epoch["step"]))
        tune.report({METRIC: epoch[METRIC]})

    material = TrainingJob(settings, courses, place, WorkerGroup(), {}, log)
    failures = train_trials([trial], material, stacked=False)
    work.points.write(candidate, failure=failures.get(trial, ""))
    tracking.end(work.uri, run_id, failed=bool(failures))
    if failures:
        tune.report({METRIC: 0.0})  # a schedule or a search algorithm needs a figure


@lru_cache(maxsize=4)
def data_of(
    embeddings: Path, lists: Path, cache: Path, direction: Direction, device: torch.device
) -> tuple[ListData, ListData]:
    """A process's lists to learn from and to select on, read once for all points that it trains."""
    store = EmbeddingStore.open(embeddings)
    train, validation = (
        ListData.of(open_lists(lists_path(lists, direction, role), cache), store, direction, device)
        for role in ("train", "validation")
    )
    return train, validation


def begin_run(work: SearchJob, candidate: SearchPoint, settings: TrainConfig) -> str:
    """The point's MLflow run, begun or continued."""
    params = list_params(settings, candidate.loss, candidate.direction, work.points.seed)
    run_id = tracking.begin(
        work.uri,
        work.home,
        candidate.name,
        parent=work.parent,
        resume=work.points.run(candidate),
        tags={**work.tags, "loss": candidate.loss, "direction": candidate.direction},
        params=params,
        inputs=work.inputs,
    )
    work.points.keep_run(candidate, run_id)
    return run_id


class SearchWatcher(Callback):  # type: ignore[misc]
    """Counts finished points, and writes the result of those that the scheduler stopped."""

    def __init__(
        self, work: SearchJob, candidate_of: Callable[[dict[str, Any]], SearchPoint], progress: Progress
    ) -> None:
        self.work, self.candidate_of, self.progress = work, candidate_of, progress

    def on_trial_complete(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called on the driver."""
        candidate = self.candidate_of({k: v for k, v in trial.config.items() if not callable(v)})
        if self.work.points.result(candidate) is None:
            self.work.points.write(candidate, stopped=True)
            run_id = self.work.points.run(candidate)
            if run_id:
                tracking.end(self.work.uri, run_id)
        self.progress.advance(1, note=candidate.name)
