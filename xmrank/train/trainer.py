"""The trainer: the worker process of the stage, and the training loop for one ranker or a stack of rankers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xmrank.config import DetectionSettings, Direction, TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.list_paths import lists_path
from xmrank.mine.mapped_lists import open_lists
from xmrank.mine.roles import Role
from xmrank.rankers import Ranker, RankerParameters, RefinementParameters, RefinementSizes, TokenSizes, build_ranker
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json
from xmrank.train.checkpoint import load_state, save_ranker
from xmrank.train.cost import TrialCost
from xmrank.train.epoch_metrics import EpochMetrics
from xmrank.train.list_data import ListData
from xmrank.train.loss_noise import VALIDATION_STEP, noise_seed
from xmrank.train.schedule import VALIDATION_METRICS, Epoch, TrainingSchedule, TrialProgress
from xmrank.train.stack_states import SavedState, save_together, settle_states
from xmrank.train.step import ORDINAL, TrainingStep
from xmrank.train.training_data import SeedRefinement, TrainingData, refinement_key, refinement_sizes
from xmrank.train.trial_groups import group_trials
from xmrank.train.trial_log import TrialLog
from xmrank.train.trials import HISTORY, STATE, Trial, TrialFailed, pending_trials
from xmrank.train.worker_group import WorkerGroup, broadcast_state, split_into_groups, wait_for_all

if TYPE_CHECKING:
    from xmrank.runtime.launcher import Worker
    from xmrank.train.training_work import TrainingWork

DROPOUT_STREAM = 0xD50
"""Separates the seeds of dropout from other draws under the same seed."""


def train_worker(work: TrainingWork, worker: Worker) -> None:
    """Train this process's trials: each alone or stacked, or together with other processes under DDP."""
    number, count, group = split_into_groups(worker.rank, worker.world_size, work.config.workers_per_trial)
    on_one_gpu = worker.device.type == "cuda" and group.size == 1
    stacked = work.config.stack == "on" or (work.config.stack == "auto" and on_one_gpu)

    # A group of processes takes every count-th trial, done or not, so that after a restart it takes the same ones.
    # The leading process of a group looks; on a network file system, the others might still see older files.
    trials: list[Trial] = []
    if group.leads:
        trials = pending_trials(work.trials[number::count], work.output)
        settle_states(trials, work.output)
    trials = group.broadcast(trials)
    learn_detections(work, worker)
    train_trials(trials, work, worker.device, group, stacked=stacked)


def learn_detections(work: TrainingWork, worker: Worker) -> None:
    """Learn the word detections of all trials, each in one process; return when all are there."""
    first: dict[tuple[DetectionSettings, RankerParameters, int], Trial] = {}
    # Also of those that are done: every process must come to the same end, whatever it sees on the disk.
    for trial in work.trials:
        config = work.config_of(trial)
        if config.detect.epochs:
            first.setdefault((config.detect, config.ranker, trial.seed), trial)
    if not first:
        return
    store = EmbeddingStore.open(work.embeddings, verify=False)
    for trial in list(first.values())[worker.rank :: worker.world_size]:
        config = work.config_of(trial)
        validation = open_list_data(work, store, trial.direction, "validation", worker.device)
        data = TrainingData.open(validation, validation, store, work.lists, trial.direction, config, work.detections)
        ranker = make_ranker(config, data.dimensions, trial.loss, None, data.token_sizes)
        data.load_detection(trial.seed, ranker.to(worker.device))
    wait_for_all(worker.world_size)


def train_trials(
    trials: Sequence[Trial], work: TrainingWork, device: torch.device, group: WorkerGroup, *, stacked: bool
) -> None:
    """Train the trials of a group of processes, one direction after the other."""
    from xmrank.train.training_work import RunLog

    store = EmbeddingStore.open(work.embeddings, verify=False)
    for direction in dict.fromkeys(trial.direction for trial in trials):
        own = [trial for trial in trials if trial.direction == direction]
        train = open_list_data(work, store, direction, "train", device)
        validation = open_list_data(work, store, direction, "validation", device)
        cost: TrialCost | None = None
        # Trials of one configuration share their data, and those of one seed a refinement, whatever the ranker.
        data_of: dict[TrainConfig, TrainingData] = {}
        refinements: dict[Any, dict[int, SeedRefinement]] = {}
        for together in group_trials(own, work.config_of, work.output, stacked=stacked):
            config = work.config_of(together[0])
            if config not in data_of:
                data_of[config] = TrainingData.open(
                    train, validation, store, work.lists, direction, config, work.detections
                )
            data = data_of[config]
            data.refinements = refinements.setdefault(refinement_key(config), data.refinements)
            cost = cost or TrialCost(data.lists_per_epoch, device, group.size)
            log = RunLog(work, cost, by_step=config.validate_every_steps is not None)
            if group.leads:
                log.begin_runs(together)
            with log.watch_machine(together[0]) if group.leads else contextlib.nullcontext():
                train_group(together, TrainingJob(config, data, work.output, group, work.about, log))


def open_list_data(
    work: TrainingWork, store: EmbeddingStore, direction: Direction, role: Role, device: torch.device
) -> ListData:
    """The mined lists of a direction and role, ready for batches."""
    return ListData.of(open_lists(lists_path(work.lists, direction, role), work.cache), store, direction, device)


@dataclass(frozen=True)
class TrainingJob:
    """What a group of trials is trained with.

    Attributes:
        config: everything but loss, direction and seed.
        data: the lists to train on, and those that choose the epoch.
        output: the stage's directory; each trial has its own in it.
        group: the processes that train a ranker together.
        about: further fields of every ranker's JSON.
        log: is told of validations, ends and failures.
    """

    config: TrainConfig
    data: TrainingData
    output: Path
    group: WorkerGroup
    about: dict[str, Any]
    log: TrialLog

    @property
    def schedule(self) -> TrainingSchedule:
        """The steps of the training."""
        return TrainingSchedule(self.config, self.data.lists_per_epoch)


@dataclass
class TrialState:
    """A trial in training.

    Attributes:
        ranker: trained in place when it is alone; in a stack, its weights are put back when the stack changes.
        progress: the validations so far.
        best: state dict of the best validation.
        moments: the optimiser's state that goes with the ranker's weights; empty before the first step.
    """

    trial: Trial
    ranker: Ranker
    progress: TrialProgress
    best: dict[str, Tensor]
    moments: dict[str, Tensor]


def train_group(trials: Sequence[Trial], job: TrainingJob) -> None:
    """Train the rankers of some trials of one direction together, and write the best epoch of each.

    Initial weights follow from the seed, the order of the lists from seed and epoch, dropout from seed, step and
    process. So an interrupted training ends in the same weights as one that was not interrupted, and a stack in the
    weights of each ranker alone, up to the order of sums in floating point.

    Args:
        trials: one, or those of a stack: of one shape and at the same step (`group_trials`).
        job: the configuration, the data, and where results go.
    """
    config, data, schedule, group = job.config, job.data, job.schedule, job.group

    # Start every trial, or continue it where an earlier run left it.
    states: list[TrialState] = []
    for trial in trials:
        with record_failure(trial, job):
            state = open_trial(trial, job)
            if not finish_if_over(state, job):
                states.append(state)

    step: TrainingStep | None = None
    while states:
        if step is None:
            rankers, losses = [state.ranker for state in states], [state.trial.loss for state in states]
            step = TrainingStep(rankers, losses, config, group, [state.moments for state in states])
        started = time.perf_counter()

        # Train up to the next validation. With --validate-start, the first validation comes before the first step.
        start = states[0].progress.step
        start_is_due = config.validate_start and not all(state.progress.epochs for state in states)
        end = start if start_is_due else schedule.next_validation(start)
        training = EpochMetrics(step.models, step.device)
        # Every trial has an order of lists of its own.
        batches = [schedule.list_rows(state.trial.seed, start, end) for state in states]
        for number, rows in enumerate(zip(*batches, strict=True), start):
            lists = [data.sample_lists(state.trial.seed, schedule.epoch_of(number)) for state in states]
            dropout_seeds = [dropout_seed(state.trial, number, group.rank) for state in states]
            noise_seeds = [noise_seed(state.trial.seed, number) for state in states]
            step.take(lists, rows, schedule.step_size(number), dropout_seeds, noise_seeds, training)

        # Validate: one entry of the history for each trial. Training metrics are those of the steps' own scores.
        seeds = [state.trial.seed for state in states]
        scored = data.start_scores(seeds, [state.ranker for state in states]) if start_is_due else None
        entries = validate_rankers(step, [data.validation_lists(seed) for seed in seeds], seeds, scored)
        if end > start:
            trained = training.summarise("train", group)
            entries = [figures | entry for figures, entry in zip(trained, entries, strict=True)]
        epochs = (end - start) / schedule.steps_per_epoch or 1
        seconds = (time.perf_counter() - started) / len(states) / epochs

        # Keep the best weights of each trial, and save the states of all as one, so that a stack stays together.
        validated: list[tuple[int, TrialState]] = []
        new: list[Trial] = []
        for model, (state, entry) in enumerate(zip(states, entries, strict=True)):
            with record_failure(state.trial, job):
                entry = {"epoch": schedule.count_epochs(end), "step": end} | entry
                if record_validation(state, entry, step, model):
                    new.append(state.trial)
                validated.append((model, state))
        if group.leads and validated:
            save_together([make_saved_state(state, step, model, job) for model, state in validated])

        # Log. Who is over or has failed leaves the group.
        remaining: list[TrialState] = []
        for _, state in validated:
            with record_failure(state.trial, job):
                if group.leads and state.trial in new:
                    job.log.log_validation(state.trial, state.progress.epochs[-1], seconds)
                if not finish_if_over(state, job):
                    remaining.append(state)
        if len(remaining) < len(states):
            # The others go on in a smaller stack, from where they are.
            for model, state in enumerate(states):
                state.ranker.load_state_dict(step.copy_weights(model))
                state.moments = step.copy_moments(model)
            states, step = remaining, None


@contextlib.contextmanager
def record_failure(trial: Trial, job: TrainingJob) -> Iterator[None]:
    """Record the failure of one trial, and let the others go on."""
    try:
        yield
    except TrialFailed as failure:
        if job.group.leads:
            job.log.fail_trial(trial, failure)


def open_trial(trial: Trial, job: TrainingJob) -> TrialState:
    """A trial at its start, or where an earlier run left it.

    Raises:
        TrialFailed: a damaged state.
    """
    # Initial weights come from the global generator.
    torch.manual_seed(trial.seed)
    config, data = job.config, job.data
    sizes = refinement_sizes(data, config.refine)
    ranker = make_ranker(config, data.dimensions, trial.loss, sizes, data.token_sizes)
    ranker = ranker.to(data.train.device)
    data.load_refinement(trial.seed, ranker)
    data.load_detection(trial.seed, ranker)
    # Under DDP, one process reads for all: each for itself might see files of another time.
    saved: tuple[Any, ...] | None = None
    failure = ""
    path = trial.directory(job.output) / STATE
    if job.group.leads and path.exists():
        try:
            saved = load_state(path, ranker)
        except DataError as error:
            failure = str(error)
    failure = job.group.broadcast(failure)
    if failure:
        raise TrialFailed(failure)
    saved = broadcast_state(saved, ranker, job.group)
    if saved is None:
        return TrialState(trial, ranker, TrialProgress(), {}, {})
    best, moments, meta = saved
    return TrialState(trial, ranker, TrialProgress(**meta), best, moments)


def validate_rankers(
    step: TrainingStep, data: Sequence[ListData], seeds: Sequence[int], scored: list[Tensor] | None
) -> list[Epoch]:
    """Loss and metrics of every ranker on its validation lists; ``validation_mean`` chooses the epoch."""
    # The same noise every time, so that the losses of two validations can be compared.
    noise_seeds = [noise_seed(seed, VALIDATION_STEP) for seed in seeds]
    entries = step.validate(data, noise_seeds, scored).summarise("validation", step.group)
    for entry in entries:
        total = sum(entry[f"validation_{name}"] for name in VALIDATION_METRICS)
        entry["validation_mean"] = total / len(VALIDATION_METRICS)
    return entries


def record_validation(state: TrialState, entry: Epoch, step: TrainingStep, model: int) -> bool:
    """Add a validation to a trial's history, and keep the weights if they are the best.

    Args:
        state: of the trial.
        entry: the validation.
        step: holds the weights.
        model: the trial's index in the stack.

    Returns:
        Whether the validation is new; otherwise it was in the history that the trial went on from.

    Raises:
        TrialFailed: the loss is not finite.
    """
    check_losses(state.trial, entry)
    if state.progress.epochs and state.progress.step == entry["step"]:
        return False  # validated before its first step already, by a run that was then killed
    # A copy, because training changes the weights further.
    if state.progress.add_validation(entry):
        state.best = step.copy_weights(model)
    return True


def make_saved_state(state: TrialState, step: TrainingStep, model: int, job: TrainingJob) -> SavedState:
    """What is kept of a trial: the weights of its index in the stack, the best ones, and the progress."""
    folder, meta = state.trial.directory(job.output), vars(state.progress)
    return SavedState(folder, step.copy_weights(model), state.best, step.copy_moments(model), meta)


def check_losses(trial: Trial, entry: Epoch) -> None:
    """Refuse a training that has diverged.

    Raises:
        TrialFailed: names the loss that is not finite.
    """
    what = {"train_loss": f"of epoch {entry['epoch']:.4g}", "validation_loss": "on the validation lists"}
    for name, where in what.items():
        loss = entry.get(name, 0.0)
        if not np.isfinite(loss):
            raise TrialFailed(f"{trial.name}: the loss {where} is {loss}; try a smaller --learning-rate")


def finish_if_over(state: TrialState, job: TrainingJob) -> bool:
    """Write the ranker and the history of a trial that is over; returns whether it is.

    Raises:
        TrialFailed: no validation gave a number, so that there is no best epoch.
    """
    if not state.progress.is_over(job.schedule):
        return False
    if not state.progress.best_number:
        raise TrialFailed(f"{state.trial.name}: no validation gave a number: validation_mean is nan in all of them")
    if job.group.leads:
        trial, progress = state.trial, state.progress
        directory = trial.directory(job.output)
        about = {**job.about, "loss": trial.loss, "direction": trial.direction, "seed": trial.seed}
        save_ranker(directory, state.ranker, state.best, {**about, "best_epoch": progress.best_epoch})
        # Last, since a trial with a history is done.
        write_json(directory / HISTORY, {**vars(trial), "best_epoch": progress.best_epoch, "epochs": progress.epochs})
        (directory / STATE).unlink(missing_ok=True)
        job.log.finish_trial(trial)
    return True


def dropout_seed(trial: Trial, step: int, rank: int) -> int:
    """The seed of a trial's dropout in one step of one process."""
    return int(np.random.SeedSequence([trial.seed, DROPOUT_STREAM, step, rank]).generate_state(1, np.uint32)[0])


def make_ranker(
    config: TrainConfig,
    dimensions: int,
    loss: str,
    sizes: RefinementSizes | None = None,
    tokens: TokenSizes | None = None,
) -> Ranker:
    """The configured ranker, with its initial weights; it has several levels only with an ordinal loss.

    Args:
        config: the settings.
        dimensions: of an embedding.
        loss: it is to be trained with.
        sizes: of the refinement.
        tokens: sizes of the tokens, for a ranker that reads them.
    """
    parameters = config.ranker if loss == ORDINAL else replace(config.ranker, levels=1)
    # Of the refinement's settings, the ranker has only those that the model needs; the others say how it is fitted.
    model_part = {field.name: getattr(config.refine, field.name) for field in fields(RefinementParameters)}
    refinement = RefinementParameters(**model_part)
    return build_ranker(parameters, dimensions=dimensions, refinement=refinement, sizes=sizes, tokens=tokens)
