"""The training stage's Ray part: one Ray Train run whose workers, in groups, train all trials."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from xmrank import tracking
from xmrank.config import Direction, TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.metrics import mlflow_name
from xmrank.mine.list_paths import lists_path
from xmrank.mine.mapped_lists import open_lists
from xmrank.mine.roles import ROLES, Role
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_text
from xmrank.runtime.launcher import Worker, launch_workers
from xmrank.runtime.progress import Progress
from xmrank.train.checkpoint import read_meta
from xmrank.train.cost import TrialCost
from xmrank.train.list_data import ListData
from xmrank.train.schedule import Epoch
from xmrank.train.settings import Best, config_of
from xmrank.train.trainer import TrainingJob, train_trials
from xmrank.train.trial_data import TrialDataSource
from xmrank.train.trials import STATE, Trial, pending
from xmrank.train.worker_group import WorkerGroup, split_into_groups

POLL_S = 1.0


@dataclass(frozen=True)
class TrainingWork:
    """All that a worker needs to know.

    Attributes:
        best: settings that go before the configuration's, for a direction and loss.
        embeddings, lists, output: absolute paths.
        about: further fields of every ranker's JSON.
        failures: folder that takes a file for each trial that failed.
        cache: folder for lists that are too large for memory.
        tracking_uri: of MLflow.
        runs: trial name → MLflow run id.
    """

    config: TrainConfig
    best: Best
    embeddings: Path
    lists: Path
    output: Path
    trials: list[Trial]
    about: dict[str, Any]
    failures: Path
    cache: Path
    tracking_uri: str
    runs: dict[str, str]

    def config_of(self, trial: Trial) -> TrainConfig:
        """A trial's configuration."""
        return config_of(trial, self.config, self.best)


def train_on_cluster(work: TrainingWork, scratch: Path) -> None:
    """Train every trial of the work that is not done.

    One Ray Train run serves all of them, because its start costs more than many a trial. Its workers form groups of
    ``workers_per_trial``; each group trains its share of the trials one after another, under DDP when it has several
    workers. Trials keep their own states, so restarted workers go on where they were.

    Raises:
        DataError: a trial failed; the others were trained.
    """
    shutil.rmtree(work.failures, ignore_errors=True)
    for direction in work.config.directions:
        for role in ROLES:
            open_lists(lists_path(work.lists, direction, role), work.cache)  # unpacked here, so that workers need not
    with watched(work):
        launch_workers(
            train_share,
            work,
            name="train",
            scratch=scratch,
            workers=work.config.workers,
            tasks=len(work.trials),
            group_size=work.config.workers_per_trial,
        )
    for failure in sorted(work.failures.glob("*")):
        raise DataError(failure.read_text())


def train_share(work: TrainingWork, worker: Worker) -> None:
    """One worker: train its group's share of the trials."""
    number, count, group = split_into_groups(worker.rank, worker.world_size, work.config.workers_per_trial)
    store, device = EmbeddingStore.open(work.embeddings), worker.device
    stacked = work.config.stack == "on" or (work.config.stack == "auto" and device.type == "cuda" and group.size == 1)
    # The share is cut from all trials, done or not, so that a restarted worker takes up its own.
    mine = pending(work.trials[number::count], work.output)
    for direction in dict.fromkeys(trial.direction for trial in mine):
        trials = [trial for trial in mine if trial.direction == direction]
        train_direction(direction, trials, work, store, device, group, stacked=stacked)


def train_direction(
    direction: Direction,
    trials: list[Trial],
    work: TrainingWork,
    store: EmbeddingStore,
    device: torch.device,
    group: WorkerGroup,
    *,
    stacked: bool,
) -> None:
    """Train trials of one direction; their leading process logs every validation and ends their runs."""
    train, validation = (list_data(work, store, direction, role, device) for role in ("train", "validation"))

    @cache
    def courses(config: TrainConfig) -> TrialDataSource:
        return TrialDataSource.open(train, validation, store, work.lists, direction, config)

    cost = TrialCost(len(courses(work.config_of(trials[0]))), device, group.size)

    def log(trial: Trial, epoch: Epoch, seconds: float) -> None:
        metrics = {mlflow_name(n).replace("_", "/", 1): v for n, v in epoch.items() if n not in ("epoch", "step")}
        metrics |= cost.metrics(trial.name, epoch, seconds)
        place = epoch["step"] if work.config_of(trial).validate_every_steps else epoch["epoch"]
        tracking.log_metrics(work.tracking_uri, work.runs[trial.name], metrics, step=int(place))

    # Trials of one configuration can be stacked; alone, they keep their order.
    chunks: dict[object, list[Trial]] = {}
    for trial in trials:
        chunks.setdefault(work.config_of(trial) if stacked else trial, []).append(trial)
    for chunk in chunks.values():
        config = work.config_of(chunk[0])
        material = TrainingJob(config, courses(config), work.output, group, work.about, log)
        failures = train_trials(chunk, material, stacked=stacked)
        for trial in chunk if group.leads else ():
            finish(trial, failures.get(trial), work)


def finish(trial: Trial, failure: str | None, work: TrainingWork) -> None:
    """End a trial's run, or leave word why it failed: raised, that would restart all workers, and come again."""
    if failure:
        write_text(work.failures / trial.name, failure)
        return
    run = work.runs[trial.name]
    tracking.log_artifacts(work.tracking_uri, run, *trial.files(work.output))
    tracking.end(work.tracking_uri, run)


def list_data(
    work: TrainingWork, store: EmbeddingStore, direction: Direction, role: Role, device: torch.device
) -> ListData:
    """The lists of a direction and role, ready for batches."""
    return ListData.of(open_lists(lists_path(work.lists, direction, role), work.cache), store, direction, device)


@contextlib.contextmanager
def watched(work: TrainingWork) -> Iterator[None]:
    """Show the epochs done over all trials while the block runs; they are read off the trials' own files."""
    stop = threading.Event()
    done = finished_epochs(work)
    total = sum(work.config_of(trial).epochs for trial in work.trials)
    with Progress("train (epochs)", total, sum(done.values())) as progress:

        def watch() -> None:
            while not stop.wait(POLL_S):
                now = finished_epochs(work)
                running = [name for name, epochs in now.items() if epochs > done[name]]
                progress.advance(sum(now.values()) - sum(done.values()), note=", ".join(running[:4]))
                done.update(now)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            progress.advance(sum(finished_epochs(work).values()) - sum(done.values()))


def finished_epochs(work: TrainingWork) -> dict[str, int]:
    """Trial name → epochs done."""
    epochs = {}
    for trial in work.trials:
        state = trial.directory(work.output) / STATE
        if trial.is_done(work.output):
            epochs[trial.name] = work.config_of(trial).epochs
        else:
            with contextlib.suppress(OSError):  # it may be finished, and gone, by now
                done = read_meta(state)["epochs"] if state.exists() else []
                epochs[trial.name] = int(done[-1]["epoch"]) if done else 0
        epochs.setdefault(trial.name, 0)
    return epochs
