"""One fit from the stage's inputs to its folder; plain code, without Ray."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from xmrank.baselines.baseline_features import BaselineFeatures, ValidationLists, fitted_images, pairs_of
from xmrank.baselines.baseline_registry import BASELINES, BaselineFit, settings_of
from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.heads import HeadTraining
from xmrank.baselines.towers import save_towers
from xmrank.config import BaselinesConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.metrics import mlflow_name
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json, write_text
from xmrank.runtime.manifest import WORK
from xmrank.runtime.paths import resolve
from xmrank.runtime.pieces import record_piece
from xmrank.tracking.run_tree import PlannedRun
from xmrank.train.fit_loop import EpochFigures

HISTORY = "history.json"
FITS = "fits"


@dataclass(frozen=True)
class FittingJob:
    """All that a worker needs to know.

    Attributes:
        config: with absolute paths.
        output: the stage's directory.
        failures: folder that takes a file for each fit that failed.
        runs: name of a fit → its MLflow run.
    """

    config: BaselinesConfig
    output: Path
    fits: list[BaselineFit]
    failures: Path
    runs: dict[str, PlannedRun]

    def directory_for(self, fit: BaselineFit) -> Path:
        """The folder of a fit."""
        return directory_of(self.output, fit)

    def list_pending(self) -> list[BaselineFit]:
        """The fits that are not done: a fit's history is written last."""
        return [fit for fit in self.fits if not (self.directory_for(fit) / HISTORY).exists()]

    def list_trained(self) -> list[BaselineFit]:
        """The fits, done or not, of baselines that are trained by steps."""
        return [fit for fit in self.fits if BASELINES[fit.baseline].learned]


def directory_of(output: Path, fit: BaselineFit) -> Path:
    """The folder of a fit in the stage's directory."""
    return output / FITS / fit.name


class FittingData:
    """What the fits of one process share, read when first needed."""

    def __init__(self, config: BaselinesConfig) -> None:
        self.config = config
        self.store = EmbeddingStore.open(resolve(config.embeddings), verify=False)
        self.images = fitted_images(config, self.store)

    def features_for(self, fit: BaselineFit) -> BaselineFeatures:
        """The features that a fit sees."""
        return self._own_features if BASELINES[fit.baseline].embeddings else self._given_features

    def pairs_for(self, fit: BaselineFit) -> FeaturePairs:
        """The pairs that it learns from."""
        return self._own_pairs if BASELINES[fit.baseline].embeddings else self._given_pairs

    def validation_for(self, fit: BaselineFit) -> ValidationLists:
        """The lists that choose its best epoch."""
        return ValidationLists.of(self.config, self.features_for(fit))

    @cached_property
    def _given_features(self) -> BaselineFeatures:
        return BaselineFeatures.open(self.config, self.store)

    @cached_property
    def _own_features(self) -> BaselineFeatures:
        return BaselineFeatures(self.store.image, self.store.text, self.store.text)

    @cached_property
    def _given_pairs(self) -> FeaturePairs:
        return pairs_of(self._given_features, self.store, self.images)

    @cached_property
    def _own_pairs(self) -> FeaturePairs:
        return pairs_of(self._own_features, self.store, self.images)


def fit_all(fits: list[BaselineFit], job: FittingJob, device: torch.device) -> None:
    """Fit one after another; one that fails writes why into a file, and the others go on."""
    data = FittingData(job.config)
    for fit in fits:
        try:
            fit_one(fit, job, data, device)
        except DataError as error:
            write_text(job.failures / fit.name, f"{fit.name}: {error}")


def fit_one(fit: BaselineFit, job: FittingJob, data: FittingData, device: torch.device) -> None:
    """Fit a baseline, write its towers and, last, its history."""
    baseline, settings = BASELINES[fit.baseline], settings_of(job.config, fit.baseline, fit.method)
    run = job.runs[fit.name]
    run.begin()
    validation, log = data.validation_for(fit), FitLog(run)
    training = HeadTraining(fit.seed, device, validation.measure_towers, fit.listwise, log.log_epoch)
    towers, best = baseline.fit(data.pairs_for(fit), settings, training)
    directory = job.directory_for(fit)
    save_towers(directory, towers, {**vars(fit), "method": fit.method, "settings": vars(settings)})
    # Without epochs there is one set of figures, that of the solution.
    figures = best.epochs[best.number - 1] if best.epochs else validation.measure_towers(towers)
    log.log_best(figures)
    history = {"best_epoch": best.number, "epochs": best.epochs, "best": figures}
    # Last of the files: a fit is done when its history is there.
    write_json(directory / HISTORY, history)
    record_piece(job.output / WORK, fit.name, sorted(directory.iterdir()))
    # The run ends here, so that it lasts as long as its fit.
    run.journal.add(run.id, artifacts=[directory / HISTORY], failed=False)


@dataclass(frozen=True)
class FitLog:
    """Adds the figures of a fit to the journal of its run, once: a fit that was interrupted starts again."""

    run: PlannedRun

    def log_epoch(self, epoch: EpochFigures) -> None:
        """Add the figures of an epoch."""
        metrics = {mlflow_name(name): value for name, value in epoch.items() if name != "epoch"}
        self.run.journal.add_new(self.run.id, [(int(epoch["epoch"]), metrics)])

    def log_best(self, figures: Mapping[str, float]) -> None:
        """Add the figures that the fit is chosen by."""
        self.run.journal.add_new(self.run.id, [(0, {mlflow_name(f"best/{name}"): v for name, v in figures.items()})])


def read_history(directory: Path) -> dict[str, object]:
    """The history of a finished fit."""
    return dict(json.loads((directory / HISTORY).read_text()))
