"""Rankers as the target of a search: every loss and direction has a space and a best point of its own."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from xmrank.config import Direction, TrainConfig, TuneConfig, semantic
from xmrank.embed.store import EmbeddingStore
from xmrank.losses import LOSSES
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.mine.list_paths import lists_path
from xmrank.mine.mapped_lists import open_lists
from xmrank.runtime.device import own_device
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.paths import resolve
from xmrank.runtime.verification import read_outputs
from xmrank.train.checkpoint_json import read_meta
from xmrank.train.list_data import ListData
from xmrank.train.run_journals import epoch_metrics_for_mlflow, read_epochs
from xmrank.train.schedule import Epoch, TrialProgress
from xmrank.train.trainer import TrainingJob, train_group
from xmrank.train.training import check_config
from xmrank.train.training_data import SeedRefinement, TrainingData, refinement_key
from xmrank.train.trial_log import TrialLog
from xmrank.train.trial_settings import LOSS_PREFIX, check_loss, list_params, with_point
from xmrank.train.trials import HISTORY, STATE, Trial
from xmrank.train.worker_group import WorkerGroup
from xmrank.tune.search_target import (
    PointOutcome,
    PointResult,
    ReportEpoch,
    SearchGroup,
    SearchPoint,
    SearchTarget,
)
from xmrank.tune.space import Space, add_entry, read_entries


@dataclass(frozen=True)
class PointLog(TrialLog):
    """Reports the validations of a point's training; a failure ends the training.

    Attributes:
        report: takes the metrics of every validation.
        lists: lists of an epoch.
    """

    report: ReportEpoch
    lists: int

    def log_validation(self, trial: Trial, epoch: Epoch, seconds: float) -> None:  # noqa: ARG002
        """Report metrics and costs."""
        cost = {"cost/epoch_seconds": seconds, "cost/lists_per_second": self.lists / seconds}
        self.report(int(epoch["step"]), epoch_metrics_for_mlflow(epoch) | cost, epoch["validation_mean"])


@dataclass(frozen=True)
class RankerTarget(SearchTarget):
    """Rankers on mined lists; the mean of hit@1, hit@5 and hit@10 on the validation lists decides.

    Attributes:
        config: of the search.
        base: what is not searched, with the paths of embeddings and lists.
    """

    config: TuneConfig
    base: TrainConfig
    inputs: dict[str, str]
    tags: dict[str, str]
    name: str = "rankers"

    @classmethod
    def open_inputs(cls, config: TuneConfig) -> "RankerTarget":
        """Check the configuration and its inputs.

        Raises:
            ConfigError: a setting that is not possible.
            DataError: inputs that are not finished.
        """
        for loss in config.train.losses:
            read_loss_space(config, loss)
        store, lists = EmbeddingStore.open(resolve(config.embeddings)), read_outputs(resolve(config.lists), MINE)
        base = dataclasses.replace(config.train, embeddings=store.directory, lists=resolve(config.lists))
        check_config(base, {}, store, lists)
        for loss in base.losses:
            check_loss(base, loss)
        inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint}
        return cls(config, base, inputs, {"encoder": str(store.encoder["name"]), "dataset": store.dataset})

    def describe_config(self) -> dict[str, Any]:
        """The semantic configuration of the trainings; a search has one seed of its own."""
        values = semantic(self.base)
        del values["seeds"]
        return values

    def list_groups(self) -> list[SearchGroup]:
        """A group for each loss and direction."""
        groups = []
        for loss in self.base.losses:
            space = read_loss_space(self.config, loss)
            groups += [
                SearchGroup(f"{loss} {direction}", {"loss": loss, "direction": direction}, space)
                for direction in self.base.directions
            ]
        return groups

    def count_epochs(self, group: SearchGroup) -> int:  # noqa: ARG002
        """Epochs of a training."""
        return self.base.epochs

    def config_of(self, point: SearchPoint) -> TrainConfig:
        """The configuration of a point's training."""
        return with_point(self.base, point.group.labels["loss"], point.settings)

    def trial_of(self, point: SearchPoint) -> Trial:
        """A point's training."""
        labels = point.group.labels
        return Trial(labels["loss"], direction_of(labels["direction"]), self.config.seed)

    def describe_run(self, point: SearchPoint) -> dict[str, Any]:
        """The settings of a training."""
        labels = point.group.labels
        params = list_params(self.config_of(point), labels["loss"], direction_of(labels["direction"]), self.config.seed)
        # What varies is shown also where it is off.
        return {**params, **{name.replace(LOSS_PREFIX, "loss_parameters."): v for name, v in point.settings.items()}}

    def describe_outcome(self, outcome: PointOutcome) -> dict[str, float]:
        """As the run of a ranker has it."""
        return {"kept/validation/mean": outcome.value, "kept/epoch": outcome.best_epoch}

    def run_point(self, point: SearchPoint, folder: Path, cache: Path, report: ReportEpoch) -> PointOutcome:
        """Train a ranker; an interrupted training goes on after its last validation."""
        settings, trial = self.config_of(point), self.trial_of(point)
        device = own_device()
        train, validation = read_list_data(self.base.embeddings, self.base.lists, cache, trial.direction, device)
        store = EmbeddingStore.open(self.base.embeddings, verify=False)
        # Beside the lists, so that the points of a search share it.
        detections = cache / "detections"
        data = TrainingData.open(train, validation, store, self.base.lists, trial.direction, settings, detections)
        lists = self.base.embeddings, self.base.lists, trial.direction, device
        data.refinements = share_refinements(*lists, refinement_key(settings))
        log = PointLog(report, data.lists_per_epoch)
        train_group([trial], TrainingJob(settings, data, folder, WorkerGroup(), {}, log))
        return outcome_of(self.read_progress(point, folder))

    def list_reported(self, point: SearchPoint, folder: Path) -> list[float]:
        """The validations before the one that an interrupted training goes on from, and this one."""
        return [epoch["validation_mean"] for epoch in self.read_progress(point, folder).epochs]

    def read_stopped(self, point: SearchPoint, folder: Path) -> PointOutcome | None:
        """What the state of a stopped training says."""
        progress = self.read_progress(point, folder)
        return outcome_of(progress) if progress.epochs else None

    def list_epochs(self, folder: Path) -> list[tuple[int, dict[str, float]]]:
        """The validations of the training in a point's folder."""
        directories = sorted({path.parent for path in folder.glob("trials/*/*")})
        epochs = [epoch for directory in directories for epoch in read_epochs(directory)]
        return [(int(epoch["step"]), epoch_metrics_for_mlflow(epoch)) for epoch in epochs]

    def read_progress(self, point: SearchPoint, folder: Path) -> TrialProgress:
        """What a point's training has come to: the history of a finished one, or the state; empty without either."""
        directory = self.trial_of(point).directory(folder)
        if not (directory / HISTORY).exists():
            return TrialProgress(**read_meta(directory / STATE)) if (directory / STATE).exists() else TrialProgress()
        progress = TrialProgress()
        for epoch in json.loads((directory / HISTORY).read_text())["epochs"]:
            progress.add_validation(epoch)
        return progress

    def remove_state(self, point: SearchPoint, folder: Path) -> None:
        """Remove the state from which a training goes on."""
        (self.trial_of(point).directory(folder) / STATE).unlink(missing_ok=True)

    def write_best(self, best: Mapping[str, PointResult], counts: Mapping[str, int]) -> dict[str, Any]:  # noqa: ARG002
        """Direction → loss → settings, as ``train.py --best`` reads them."""
        content: dict[str, dict[str, Any]] = {}
        for result in best.values():
            content.setdefault(result.labels["direction"], {})[result.labels["loss"]] = result.settings
        return content


def outcome_of(progress: TrialProgress) -> PointOutcome:
    """The outcome of a training."""
    return PointOutcome(progress.best_value, progress.best_epoch, progress.epochs[-1]["epoch"])


def direction_of(text: str) -> Direction:
    """A direction of its name."""
    return "i2t" if text == "i2t" else "t2i"


def read_loss_space(config: TuneConfig, loss: str) -> Space:
    """What is searched for a loss: entries of every training, and those of its own parameters.

    Raises:
        ConfigError: a name that is no setting, or a value that is not possible.
    """
    space: Space = {}
    for entry in read_entries(config):
        name = entry.name
        owner, dot, parameter = name.partition(".")
        if dot and owner in LOSSES:
            if owner not in config.train.losses:
                raise ConfigError(f"--space {entry.text}: {owner} is not among --train.losses")
            if owner != loss:
                continue
            name = LOSS_PREFIX + parameter
        try:
            for value in entry.list_bounds():
                check_loss(with_point(config.train, loss, {name: value}), loss)
        except ConfigError as error:
            raise ConfigError(f"--space {entry.text}: {error}") from None
        add_entry(space, name, entry)
    return space


@lru_cache(maxsize=4)
def read_list_data(
    embeddings: Path, lists: Path, cache: Path, direction: Direction, device: torch.device
) -> tuple[ListData, ListData]:
    """A process's training and validation lists, read once for all points that it trains."""
    store = EmbeddingStore.open(embeddings, verify=False)
    train, validation = (
        ListData.of(open_lists(lists_path(lists, direction, role), cache), store, direction, device)
        for role in ("train", "validation")
    )
    return train, validation


@lru_cache(maxsize=4)
def share_refinements(
    embeddings: Path,  # noqa: ARG001  (the arguments say whose refinements these are)
    lists: Path,  # noqa: ARG001
    direction: Direction,  # noqa: ARG001
    device: torch.device,  # noqa: ARG001
    key: tuple[Any, ...],  # noqa: ARG001
) -> dict[int, SeedRefinement]:
    """A process's refinements by seed, fitted once for all points that differ in the ranker or its training alone."""
    return {}
