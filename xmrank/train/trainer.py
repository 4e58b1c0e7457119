"""The training of rankers: plain torch, resumable at every validation, the same alone, stacked and under DDP."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmrank.config import TrainConfig
from xmrank.metrics import list_metrics, mean_over_queries
from xmrank.rankers import Ranker, RefinementParameters, RefinementSizes, build_ranker
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json
from xmrank.train.checkpoint import load_state, read_meta, save_ranker, save_state
from xmrank.train.list_data import ListData, StackedListData
from xmrank.train.schedule import Epoch, TrainingSchedule, TrialProgress
from xmrank.train.step import ORDINAL, ScoredLists, TrainingStep, figures
from xmrank.train.trial_data import TrialData, TrialDataSource, refinement_sizes
from xmrank.train.trials import HISTORY, STATE, Trial
from xmrank.train.worker_group import WorkerGroup

VALIDATION_METRICS = ("hit@1", "hit@5", "hit@10")
EVALUATION_BATCH = 256
DROPOUT_STREAM = 0xD50
TOGETHER = 64
"""Batches whose metrics are computed in one go."""
STACK_LIMIT = 64
"""Models of one stack at most."""

OnEpoch = Callable[[Trial, Epoch, float], object]


@dataclass(frozen=True)
class TrainingJob:
    """What rankers of one direction are trained with.

    Attributes:
        config: everything but loss, direction and seed.
        courses: lists to learn from, and lists that choose the epoch.
        output: the stage's directory; each trial has its own in it.
        group: this process's place among those that train a ranker.
        about: further fields of every ranker's JSON.
        on_epoch: called by the leading process with each trial, its new validation, and the seconds that an epoch
            takes; in a stack, its share of them.
    """

    config: TrainConfig
    courses: TrialDataSource
    output: Path
    group: WorkerGroup
    about: dict[str, Any]
    on_epoch: OnEpoch

    @property
    def plan(self) -> TrainingSchedule:
        """The steps."""
        return TrainingSchedule(self.config, len(self.courses))


def train_trials(trials: Sequence[Trial], material: TrainingJob, *, stacked: bool) -> dict[Trial, str]:
    """Train rankers of one direction, one after another or stacked, and keep the best epoch of each.

    Initial weights follow from the seed, the order of the lists from seed and epoch, dropout from seed, step and rank:
    an interrupted run ends in the same weights as one that was not, and a stacked one, up to the order of sums in
    floating point, as one alone.

    Returns:
        Why, for each trial that failed; the others are done.
    """

    def alike(trial: Trial) -> tuple[bool, int]:  # a stack needs one shape, and one place to go on from
        return trial.loss == ORDINAL, position(trial, material.output)

    failures: dict[Trial, str] = {}
    for _, group in groupby(sorted(trials, key=alike), key=alike):
        company = sorted(group, key=lambda trial: (trial.loss, trial.seed))
        size = STACK_LIMIT if stacked else 1
        for start in range(0, len(company), size):
            failures |= train_together(company[start : start + size], material)
    return failures


def position(trial: Trial, output: Path) -> int:
    """Steps that an earlier run took."""
    state = trial.directory(output) / STATE
    try:
        return TrialProgress(**read_meta(state)).step if state.exists() else 0
    except DataError:  # said by whoever is to continue from it, of this trial alone
        return -1


@dataclass
class TrialState:
    """A trial in training: how far it is, and its best weights so far."""

    trial: Trial
    ranker: Ranker
    course: TrialData
    progress: TrialProgress
    best: dict[str, Tensor]
    moments: dict[str, Tensor]


def train_together(trials: Sequence[Trial], material: TrainingJob) -> dict[Trial, str]:
    """Train trials that stand at the same step, as one learner; those that end early leave it."""
    failures: dict[Trial, str] = {}
    pupils = []
    for trial in trials:
        try:
            pupils.append(enrol(trial, material))
        except DataError as error:
            failures[trial] = str(error)
    while pupils:
        failures |= until_one_leaves(pupils, material)
        pupils = [p for p in pupils if p.trial not in failures and not p.progress.is_over(material.plan)]
    return failures


def enrol(trial: Trial, material: TrainingJob) -> TrialState:
    """A trial at its start, or where an earlier run left it."""
    torch.manual_seed(trial.seed)
    config, courses = material.config, material.courses
    sizes = refinement_sizes(courses, config.refine)
    ranker = make_ranker(config, courses.train.queries.shape[1], trial.loss, sizes).to(courses.train.device)
    pupil = TrialState(trial, ranker, courses.of(trial.seed, ranker, config.refine), TrialProgress(), {}, {})
    state = trial.directory(material.output) / STATE
    if state.exists():
        pupil.best, pupil.moments, meta = load_state(state, ranker)
        pupil.progress = TrialProgress(**meta)
    return pupil


def until_one_leaves(pupils: list[TrialState], material: TrainingJob) -> dict[Trial, str]:
    """Train until at least one trial is over or has failed; returns why, for those that failed."""
    plan, leads = material.plan, material.group.leads
    learner = TrainingStep([p.ranker for p in pupils], [p.trial.loss for p in pupils], material.config, material.group)
    failures: dict[Trial, str] = {}
    over = [p.progress.is_over(plan) for p in pupils]  # a run that was killed after the last validation
    if pupils[0].moments:
        learner.resume([p.moments for p in pupils])
    if material.config.validate_start and any(not p.progress.epochs for p in pupils):
        failures |= validate_start(learner, pupils, material)
    while not any(over) and not failures:
        started, step = time.perf_counter(), pupils[0].progress.step
        entries = next_validation(learner, pupils, material, failures)
        epochs = (plan.next_validation(step) - step) / plan.steps_per_epoch
        seconds = (time.perf_counter() - started) / len(pupils) / epochs
        for number, (pupil, entry) in enumerate(zip(pupils, entries, strict=True)):
            if pupil.trial not in failures:
                note(learner, number, pupil, entry, seconds, material)
        over = [p.trial not in failures and p.progress.is_over(plan) for p in pupils]
    for number, pupil in enumerate(pupils):
        pupil.ranker.load_state_dict(learner.weights(number))
        pupil.moments = learner.moments(number)
        if over[number] and leads:
            graduate(pupil, material)
    return failures


def validate_start(learner: TrainingStep, pupils: Sequence[TrialState], material: TrainingJob) -> dict[Trial, str]:
    """Validate those that have taken no step yet; returns why, for those that failed."""
    started, failures = time.perf_counter(), dict[Trial, str]()
    data, trials = [p.course.validation for p in pupils], [p.trial for p in pupils]
    entries = evaluate(learner, data, trials, material.group, failures)
    seconds = (time.perf_counter() - started) / len(pupils)
    for number, (pupil, entry) in enumerate(zip(pupils, entries, strict=True)):
        if pupil.trial not in failures and not pupil.progress.epochs:
            note(learner, number, pupil, {"epoch": 0, "step": 0, **entry}, seconds, material)
    return failures


def note(
    learner: TrainingStep, number: int, pupil: TrialState, entry: Epoch, seconds: float, material: TrainingJob
) -> None:
    """Take note of one model's validation, and keep what a resumed run needs."""
    if pupil.progress.add(entry):
        pupil.best = learner.weights(number)
    if material.group.leads:
        keep(pupil, learner.weights(number), learner.moments(number), material.output)
        material.on_epoch(pupil.trial, entry, seconds)


def keep(pupil: TrialState, weights: dict[str, Tensor], moments: dict[str, Tensor], output: Path) -> None:
    """Write what a resumed run needs."""
    save_state(pupil.trial.directory(output) / STATE, weights, pupil.best, moments, vars(pupil.progress))


def graduate(pupil: TrialState, material: TrainingJob) -> None:
    """Write the ranker and, last, the history of a trial that is over."""
    trial, progress, directory = pupil.trial, pupil.progress, pupil.trial.directory(material.output)
    about = {**material.about, "loss": trial.loss, "direction": trial.direction, "seed": trial.seed}
    save_ranker(directory, pupil.ranker, pupil.best, {**about, "best_epoch": progress.best_epoch})
    write_json(directory / HISTORY, {**vars(trial), "best_epoch": progress.best_epoch, "epochs": progress.epochs})
    (directory / STATE).unlink(missing_ok=True)


def make_ranker(config: TrainConfig, dimensions: int, loss: str, sizes: RefinementSizes | None = None) -> Ranker:
    """The configured ranker; it has several levels only with an ordinal loss.

    Args:
        config: the settings.
        dimensions: of an embedding.
        loss: it is to be trained with.
        sizes: of the refinement.
    """
    parameters = config.ranker if loss == ORDINAL else replace(config.ranker, levels=1)
    model_part = {field.name: getattr(config.refine, field.name) for field in fields(RefinementParameters)}
    return build_ranker(parameters, dimensions=dimensions, refinement=RefinementParameters(**model_part), sizes=sizes)


def next_validation(
    learner: TrainingStep, pupils: Sequence[TrialState], material: TrainingJob, failures: dict[Trial, str]
) -> list[Epoch]:
    """Train up to the next validation; one entry a model. Train metrics come from the scores of the steps themselves.

    Models whose loss is no number are added to ``failures``.
    """
    plan, group, trials = material.plan, material.group, [p.trial for p in pupils]
    start = pupils[0].progress.step
    end = plan.next_validation(start)
    totals = torch.zeros(learner.size, 2, dtype=torch.float64, device=learner.device)
    scored: list[ScoredLists] = []
    batches = zip(*(plan.batches(trial.seed, start, end) for trial in trials), strict=True)
    for step, rows in enumerate(batches, start):
        seeds = [dropout_seed(trial, step, group.rank) for trial in trials]
        epoch = step // plan.steps_per_epoch + 1
        lists = StackedListData([pupil.course.train(epoch) for pupil in pupils])
        taken = learner.step(lists, rows, plan.rate(step), seeds)
        totals += taken.totals
        scored += taken.scored
    place = f"epoch {plan.epochs(end):.4g}"
    losses = mean_losses(totals, trials, f"the loss of {place}", failures)
    trained = metrics_of(scored, learner.size, group)
    selected = evaluate(learner, [pupil.course.validation for pupil in pupils], trials, group, failures)
    return [
        {"epoch": plan.epochs(end), "step": end, "train_loss": loss, **prefixed("train", train), **validation}
        for loss, train, validation in zip(losses, trained, selected, strict=True)
    ]


def dropout_seed(trial: Trial, step: int, rank: int) -> int:
    """The seed of a trial's dropout in one step of one process."""
    return int(np.random.SeedSequence([trial.seed, DROPOUT_STREAM, step, rank]).generate_state(1, np.uint32)[0])


def mean_losses(totals: Tensor, trials: Sequence[Trial], what: str, failures: dict[Trial, str]) -> list[float]:
    """The losses that numerators and denominators give, [models, 2]; where training has diverged, a failure."""
    losses = (totals[:, 0] / totals[:, 1].clamp(min=1)).tolist()
    for trial, loss in zip(trials, losses, strict=True):
        if not np.isfinite(loss):
            failures.setdefault(trial, f"{trial.name}: {what} is {loss}; try a smaller --learning-rate")
    return losses


@torch.no_grad()
def evaluate(
    learner: TrainingStep,
    data: Sequence[ListData],
    trials: Sequence[Trial],
    group: WorkerGroup,
    failures: dict[Trial, str],
) -> list[Epoch]:
    """Loss and metrics of every model on its validation lists, each list once, shared out over the group."""
    learner.module.eval()
    rows = np.arange(len(data[0].lists))[group.rank :: group.size]
    totals = torch.zeros(learner.size, 2, dtype=torch.float64, device=learner.device)
    scored: list[ScoredLists] = []
    at_once = max(1, EVALUATION_BATCH // learner.size)
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        batch = StackedListData(data).batch(np.tile(part, learner.size))
        with learner.autocast():
            scores = learner.scores(batch)
        terms = learner.terms(scores, batch)
        weight = torch.where(terms.summed, float(len(part)), terms.weight.double())
        totals += torch.stack([terms.total.double(), weight], 1)
        scored.append(ScoredLists(figures(scores), batch.labels, batch.mask))
    losses = mean_losses(group.sum(totals), trials, "the loss on the validation lists", failures)
    entries = []
    for loss, metrics in zip(losses, metrics_of(scored, learner.size, group), strict=True):
        mean = sum(metrics[name] for name in VALIDATION_METRICS) / len(VALIDATION_METRICS)
        entries.append({**prefixed("validation", metrics), "validation_loss": loss, "validation_mean": mean})
    return entries


def metrics_of(scored: Sequence[ScoredLists], models: int, group: WorkerGroup) -> list[dict[str, float]]:
    """Each model's mean metrics over the lists that the whole group scored with it."""
    parts: dict[str, list[np.ndarray]] = {name: [np.empty((models, 0))] for name in VALIDATION_METRICS}
    for start in range(0, len(scored), TOGETHER):
        scores, labels, mask = joined(scored[start : start + TOGETHER], models)
        values = list_metrics(scores.cpu().numpy(), labels.cpu().numpy(), mask=mask.cpu().numpy())
        for name in VALIDATION_METRICS:
            parts[name].append(values[name].reshape(models, -1))
    everyone = group.gather([torch.from_numpy(np.concatenate(parts[name], 1)) for name in VALIDATION_METRICS])
    columns = [torch.cat(column, 1).numpy() for column in zip(*everyone, strict=True)]
    # Sorted, so that the mean's last digit does not depend on who scored which list.
    return [
        {n: mean_over_queries(np.sort(c[model])).mean for n, c in zip(VALIDATION_METRICS, columns, strict=True)}
        for model in range(models)
    ]


def joined(scored: Sequence[ScoredLists], models: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and mask of several batches, still one model after another."""
    columns = zip(*(vars(part).values() for part in scored), strict=True)
    scores, labels, mask = (
        torch.cat([tensor.unflatten(0, (models, -1)) for tensor in column], 1).flatten(0, 1) for column in columns
    )
    return scores.float().nan_to_num(), labels, mask  # NaN is of a trial that has failed: its loss said so


def prefixed(prefix: str, metrics: dict[str, float]) -> Epoch:
    """The metrics under names such as ``train_hit@1``."""
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
