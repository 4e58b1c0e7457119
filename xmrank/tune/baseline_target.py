"""Baselines as the target of a search: every baseline, and each of its shares of S-NDCG, has a best point."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from xmrank.baselines.baseline_features import BaselineFeatures, fingerprint_sources
from xmrank.baselines.baseline_registry import (
    BASELINES,
    BaselineFit,
    check_baselines,
    describe_settings,
    list_fits,
    settings_of,
    with_settings,
)
from xmrank.baselines.fitting import FittingData
from xmrank.baselines.heads import HeadTraining
from xmrank.config import BaselinesConfig, TuneConfig
from xmrank.config.baselines import SETTINGS
from xmrank.embed.store import EmbeddingStore
from xmrank.metrics import mlflow_name
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.runtime.device import own_device
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.paths import resolve
from xmrank.runtime.verification import read_outputs
from xmrank.train.fit_loop import EpochFigures
from xmrank.tune.search_target import (
    PointOutcome,
    PointResult,
    ReportEpoch,
    SearchGroup,
    SearchPoint,
    SearchTarget,
)
from xmrank.tune.space import Point, Space, add_entry, read_entries

METRIC = "validation_mean"
"""The mean of hit@1, hit@5 and hit@10 of both directions on the validation lists."""


@dataclass(frozen=True)
class BaselineTarget(SearchTarget):
    """Baselines on paired data; the validation lists of both directions decide.

    Attributes:
        config: of the search.
        base: what is not searched, with absolute paths.
    """

    config: TuneConfig
    base: BaselinesConfig
    inputs: dict[str, str]
    tags: dict[str, str]
    name: str = "baselines"

    @classmethod
    def open_inputs(cls, config: TuneConfig) -> "BaselineTarget":
        """Check the configuration and its inputs.

        Raises:
            ConfigError: a setting that is not possible.
            DataError: inputs that are not finished, or features of other rows than the store's.
        """
        base = dataclasses.replace(config.baselines, embeddings=resolve(config.embeddings), lists=resolve(config.lists))
        check_baselines(base)
        read_baseline_spaces(config, base)
        store, lists = EmbeddingStore.open(base.embeddings), read_outputs(base.lists, MINE)
        BaselineFeatures.open(base, store)
        inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint, **fingerprint_sources(base)}
        return cls(config, base, inputs, {"encoder": str(store.encoder["name"])})

    def describe_config(self) -> dict[str, Any]:
        """The semantic configuration of the fits; a search has one seed of its own."""
        values = describe_settings(self.base)
        del values["seeds"]
        return values

    def list_groups(self) -> list[SearchGroup]:
        """A group for each baseline and share of S-NDCG."""
        spaces = read_baseline_spaces(self.config, self.base)
        return [
            SearchGroup(fit.method, {"name": fit.method, "baseline": fit.baseline}, spaces[fit.baseline])
            for fit in self.list_own_fits()
        ]

    def list_own_fits(self) -> list[BaselineFit]:
        """Every fit, with the search's seed."""
        return list_fits(dataclasses.replace(self.base, seeds=(self.config.seed,)))

    def fit_of(self, group: SearchGroup) -> BaselineFit:
        """The fit of a group's points."""
        return next(fit for fit in self.list_own_fits() if fit.method == group.labels["name"])

    def settings_of(self, group: SearchGroup, settings: Point) -> Any:
        """The settings of a fit, with those of a point."""
        return with_settings(settings_of(self.base, group.labels["baseline"]), settings)

    def count_epochs(self, group: SearchGroup) -> int:
        """Epochs of a fit; a space may hold longer ones."""
        epochs = group.space.get("epochs")
        searched = epochs if isinstance(epochs, list) else []
        return max([getattr(self.settings_of(group, {}), "epochs", 1), *map(int, searched)])

    def describe_run(self, point: SearchPoint) -> dict[str, Any]:
        """The settings of a fit."""
        return {**vars(self.fit_of(point.group)), **vars(self.settings_of(point.group, point.settings))}

    def run_point(self, point: SearchPoint, folder: Path, cache: Path, report: ReportEpoch) -> PointOutcome:  # noqa: ARG002
        """Fit a baseline; an interrupted fit starts again."""
        fit = self.fit_of(point.group)
        settings = self.settings_of(point.group, point.settings)
        data = read_fitting_data(self.base)
        validation = data.validation_for(fit)

        def report_epoch(epoch: EpochFigures) -> None:
            metrics = {mlflow_name(name): value for name, value in epoch.items() if name != "epoch"}
            report(int(epoch["epoch"]), metrics, epoch[METRIC])

        device = own_device()
        training = HeadTraining(fit.seed, device, validation.measure_towers, fit.listwise, report_epoch)
        towers, best = BASELINES[fit.baseline].fit(data.pairs_for(fit), settings, training)
        if not best.epochs:
            figures = validation.measure_towers(towers)
            return PointOutcome(figures[METRIC], figures=rename_figures(figures))
        figures = best.epochs[best.number - 1]
        return PointOutcome(figures[METRIC], best.number, len(best.epochs), figures=rename_figures(figures))

    def write_best(self, best: Mapping[str, PointResult], counts: Mapping[str, int]) -> dict[str, Any]:
        """Method → baseline, settings, value and number of points, as ``baselines.py --best`` reads them."""
        return {
            title: {
                "baseline": result.labels["baseline"],
                "settings": result.settings,
                "value": result.value,
                "points": counts[title],
            }
            for title, result in best.items()
        }


def rename_figures(figures: EpochFigures) -> dict[str, float]:
    """Figures by names that MLflow takes."""
    return {mlflow_name(name): value for name, value in figures.items()}


@lru_cache(maxsize=1)
def read_fitting_data(config: BaselinesConfig) -> FittingData:
    """A process's features, read once for all points that it fits."""
    return FittingData(config)


def read_baseline_spaces(config: TuneConfig, base: BaselinesConfig) -> dict[str, Space]:
    """What is searched for each baseline: entries of its own, and those without an owner that it knows.

    Raises:
        ConfigError: an entry that no baseline of the search has, or a value that is not possible.
    """
    spaces: dict[str, Space] = {name: {} for name in base.baselines}
    for entry in read_entries(config):
        owner, dot, parameter = entry.name.rpartition(".")
        able = [name for name in base.baselines if owner in ("", name) and hasattr(BASELINES[name].settings, parameter)]
        if not able or (dot and not owner):
            raise ConfigError(
                f"--space {entry.text}: expected NAME=[VALUE,...], uniform(a,b) or log(a,b) with NAME or BASELINE.NAME "
                "a setting of --baselines.baselines"
            )
        for name in able:
            check_values(base, name, parameter, entry.list_bounds())
            add_entry(spaces[name], parameter, entry)
    return spaces


def check_values(base: BaselinesConfig, name: str, parameter: str, values: list[Any]) -> None:
    """Refuse values that a setting of a baseline cannot have.

    Raises:
        ConfigError: names the setting and what was expected.
    """
    settings = getattr(base, name) if name in SETTINGS else BASELINES[name].settings
    for value in values:
        try:
            with_settings(settings, {parameter: value})
        except ValueError as error:
            raise ConfigError(f"--space {name}.{error}") from None
