"""One fit from the stage's inputs to its folder; plain code, without Ray."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from xmrank import tracking
from xmrank.baselines.features import Features, Selection, fitted_images, pairs_of
from xmrank.baselines.heads import Epoch, Training
from xmrank.baselines.pairs import Pairs
from xmrank.baselines.registry import BASELINES, Fit, settings_of
from xmrank.baselines.towers import save_towers
from xmrank.config import BaselinesConfig
from xmrank.embedding import EmbeddingStore
from xmrank.errors import DataError
from xmrank.evaluation import mlflow_name
from xmrank.files import write_json, write_text
from xmrank.paths import resolve

HISTORY = "history.json"
FITS = "fits"


@dataclass(frozen=True)
class Work:
    """All that a worker needs to know.

    Attributes:
        config: with absolute paths.
        output: the stage's directory.
        failures: folder that takes a file for each fit that failed.
        uri: of MLflow.
        runs: name of a fit → MLflow run id.
    """

    config: BaselinesConfig
    output: Path
    fits: list[Fit]
    failures: Path
    uri: str
    runs: dict[str, str]

    def directory(self, fit: Fit) -> Path:
        """The folder of a fit."""
        return directory_of(self.output, fit)

    def pending(self) -> list[Fit]:
        """The fits that are not done."""
        return [fit for fit in self.fits if not (self.directory(fit) / HISTORY).exists()]


def directory_of(output: Path, fit: Fit) -> Path:
    """The folder of a fit in the stage's directory."""
    return output / FITS / fit.name


class Material:
    """What the fits of one process share, read when first asked for."""

    def __init__(self, config: BaselinesConfig) -> None:
        self.config = config
        self.store = EmbeddingStore.open(resolve(config.embeddings))
        self.images = fitted_images(config, self.store)

    def features(self, fit: Fit) -> Features:
        """The features that a fit sees."""
        return self._own if BASELINES[fit.baseline].embeddings else self._given

    def pairs(self, fit: Fit) -> Pairs:
        """The pairs that it learns from."""
        return self._own_pairs if BASELINES[fit.baseline].embeddings else self._given_pairs

    def selection(self, fit: Fit) -> Selection:
        """The lists that choose its best epoch."""
        return Selection.of(self.config, self.features(fit))

    @cached_property
    def _given(self) -> Features:
        return Features.open(self.config, self.store)

    @cached_property
    def _own(self) -> Features:
        return Features(self.store.image, self.store.text, self.store.text)

    @cached_property
    def _given_pairs(self) -> Pairs:
        return pairs_of(self._given, self.store, self.images)

    @cached_property
    def _own_pairs(self) -> Pairs:
        return pairs_of(self._own, self.store, self.images)


def fit_all(fits: list[Fit], work: Work, device: torch.device) -> None:
    """Fit one after another; one that fails leaves word why, and the others go on."""
    material = Material(work.config)
    for fit in fits:
        try:
            fit_one(fit, work, material, device)
        except DataError as error:
            write_text(work.failures / fit.name, f"{fit.name}: {error}")


def fit_one(fit: Fit, work: Work, material: Material, device: torch.device) -> None:
    """Fit a baseline, write its towers and, last, its history."""
    baseline, settings = BASELINES[fit.baseline], settings_of(work.config, fit.baseline, fit.method)
    selection, run = material.selection(fit), work.runs[fit.name]
    training = Training(fit.seed, device, selection.figures, fit.listwise, logger(work.uri, run))
    towers, best = baseline.fit(material.pairs(fit), settings, training)
    directory = work.directory(fit)
    save_towers(directory, towers, {**vars(fit), "method": fit.method, "settings": vars(settings)})
    figures = best.epochs[best.number - 1] if best.epochs else selection.figures(towers)
    tracking.log_metrics(work.uri, run, {mlflow_name(f"best/{name}"): value for name, value in figures.items()})
    history = {"best_epoch": best.number, "epochs": best.epochs, "best": figures}
    write_json(directory / HISTORY, history)
    tracking.log_artifacts(work.uri, run, directory / HISTORY)


def logger(uri: str, run: str) -> Callable[[Epoch], None]:
    """Logs the figures of an epoch to a run."""

    def log(epoch: Epoch) -> None:
        metrics = {mlflow_name(name): value for name, value in epoch.items() if name != "epoch"}
        tracking.log_metrics(uri, run, metrics, step=int(epoch["epoch"]))

    return log


def read_history(directory: Path) -> dict[str, object]:
    """The history of a finished fit."""
    return dict(json.loads((directory / HISTORY).read_text()))
