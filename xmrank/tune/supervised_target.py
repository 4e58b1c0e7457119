"""The supervised methods as the target of a search: every labelled set has a best point of each method."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xmrank.config import SupervisedConfig, TuneConfig
from xmrank.config.supervised_methods import METHOD_SETTINGS
from xmrank.runtime.errors import ConfigError
from xmrank.supervised.method_runs import cached_set, use_one_thread
from xmrank.supervised.method_training import naive_map, two_stage_map
from xmrank.supervised.methods import fit_method, with_method_settings
from xmrank.supervised.set_readers import SetSource, list_sources_of, read_source
from xmrank.train.fit_loop import EpochFigures
from xmrank.tune.search_target import (
    PointOutcome,
    PointResult,
    ReportEpoch,
    SearchGroup,
    SearchPoint,
    SearchTarget,
)
from xmrank.tune.space import NumberRange, Point, Space, SpaceEntry, add_entry, read_entries

LCM = "lcm"
WEIGHTS = ("a", "b", "c")
NEIGHBOURS = "neighbours"
SEARCHED = (*WEIGHTS, "sigma", NEIGHBOURS)
"""Of LCM; of other methods, any number among their settings."""
METHODS = tuple(dict.fromkeys(name for name in METHOD_SETTINGS.values() if name))


@dataclass(frozen=True)
class SupervisedTarget(SearchTarget):
    """Methods on labelled sets; the validation items decide: by two-stage search for LCM, by distance for others.

    Attributes:
        config: of the search.
        base: what is not searched.
        sources: the sets.
        spaces: method → what is searched.
        neighbours: numbers of neighbours that every training of LCM in a grid is validated for: they change no
            training.
    """

    config: TuneConfig
    base: SupervisedConfig
    sources: tuple[SetSource, ...]
    spaces: dict[str, Space]
    neighbours: tuple[int, ...]
    inputs: dict[str, str]
    tags: dict[str, str]
    name: str = "supervised"

    @classmethod
    def open_inputs(cls, config: TuneConfig) -> "SupervisedTarget":
        """Check the configuration and read the sets.

        Raises:
            ConfigError: no set, or a space that is not possible.
            DataError: a set that cannot be read.
        """
        base = config.supervised
        if not base.data:
            raise ConfigError("--supervised.data: expected one or more labelled sets, each as NAME=PATH")
        spaces = read_method_spaces(config)
        neighbours: tuple[int, ...] = ()
        if config.search == "grid" and NEIGHBOURS in spaces.get(LCM, {}):
            values = spaces[LCM].pop(NEIGHBOURS)
            assert isinstance(values, list)
            # Taken out of the space: one training serves all numbers of neighbours.
            neighbours = tuple(values)
        sources = tuple(list_sources_of(base))
        inputs = {f"data {source.key}": read_source(source).fingerprint for source in sources}
        return cls(config, base, sources, spaces, neighbours, inputs, {"method": " ".join(spaces)})

    def describe_config(self) -> dict[str, Any]:
        """The semantic configuration of the trainings."""
        names = ("neighbours", "patience", "captions", "split_seed", "unit_length")
        own = {method: vars(getattr(self.base, method)) for method in self.spaces}
        return {name: getattr(self.base, name) for name in names} | own

    def list_groups(self) -> list[SearchGroup]:
        """A group for each set and method; of LCM it has the set's name."""
        groups = []
        for source in self.sources:
            for method, space in self.spaces.items():
                title = source.key if method == LCM else f"{source.key} {method}"
                groups.append(SearchGroup(title, {"set": source.key, "method": method}, space))
        return groups

    def count_epochs(self, group: SearchGroup) -> int:
        """Most rounds or epochs of a training; 1 for a method that is solved in one go."""
        settings = getattr(self.base, group.labels["method"])
        return int(getattr(settings, "rounds", getattr(settings, "epochs", 1)))

    def canonical_settings(self, settings: Point) -> Any:
        """Points of LCM whose a : b : c are in proportion are one training: the pivots are signs."""
        if not settings.keys() <= set(SEARCHED):
            return settings
        weights = {name: settings.get(name, getattr(self.base.lcm, name)) for name in WEIGHTS}
        sigma = settings.get("sigma", self.base.lcm.sigma)
        return [*reduce_weights(weights), sigma, settings.get(NEIGHBOURS)]

    def config_of(self, point: SearchPoint) -> SupervisedConfig:
        """The configuration of a point's training, which stops by the base's number of neighbours."""
        settings = {name: value for name, value in point.settings.items() if name != NEIGHBOURS}
        return with_method_settings(self.base, {point.group.labels["method"]: settings})

    def describe_run(self, point: SearchPoint) -> dict[str, Any]:
        """The settings of a training."""
        own = vars(getattr(self.config_of(point), point.group.labels["method"]))
        return {**own, **point.settings, "seed": self.config.seed}

    def run_point(self, point: SearchPoint, folder: Path, cache: Path, report: ReportEpoch) -> PointOutcome:  # noqa: ARG002
        """Train a method and validate it, LCM for every number of neighbours; an interrupted training starts again."""
        use_one_thread()
        labels = point.group.labels
        data = cached_set(next(source for source in self.sources if source.key == labels["set"]))
        rounds = 0

        def report_round(figures: EpochFigures) -> None:
            nonlocal rounds
            rounds += 1
            report(rounds, figures, figures["validation_map"])

        fitted = fit_method(labels["method"], data, self.config_of(point), self.config.seed, report_round)
        assert fitted.module is not None
        if labels["method"] != LCM:
            value = naive_map(fitted.module, data.validation)
            return PointOutcome(value, fitted.best_round, len(fitted.history))
        counts = self.neighbours or (point.settings.get(NEIGHBOURS, self.base.neighbours),)
        values = {count: two_stage_map(fitted.module, data, count) for count in counts}
        # The first of the highest, as everywhere.
        best = max(values, key=lambda count: values[count])
        figures = {f"validation_map_{count}_neighbours": value for count, value in values.items()}
        chosen = {NEIGHBOURS: best}
        return PointOutcome(values[best], fitted.best_round, len(fitted.history), chosen, figures)

    def write_best(self, best: Mapping[str, PointResult], counts: Mapping[str, int]) -> dict[str, Any]:
        """Set (LCM), or set and method → settings, value, number of points, as ``supervised.py --best`` reads them."""
        return {
            title: {"settings": result.settings, "value": result.value, "points": counts[title]}
            for title, result in best.items()
        }


def reduce_weights(weights: Mapping[str, float]) -> list[float]:
    """Three weights up to their scale: logarithms of their ratios to the largest; 0 for a weight of 0."""
    largest = max(weights.values()) or 1.0
    reduced = []
    for name in WEIGHTS:
        weight = weights[name]
        # Rounded, because 0.1/0.01 and 1/0.1 differ in their last bits; shifted, to tell a ratio of 1 from no weight.
        reduced.append(round(math.log(weight / largest), 6) + 1000 if weight else 0.0)
    return reduced


def read_method_spaces(config: TuneConfig) -> dict[str, Space]:
    """What is searched for each method: METHOD.NAME=VALUES, and NAME=VALUES of LCM.

    Raises:
        ConfigError: another setting, or values that it cannot have.
    """
    spaces: dict[str, Space] = {}
    for entry in read_entries(config):
        method, dot, name = entry.name.rpartition(".")
        if not dot or method == LCM:
            entry, method = read_lcm_entry(replace(entry, name=name)), LCM
        else:
            entry = read_method_entry(config, entry, method, name)
        add_entry(spaces.setdefault(method, {}), name, entry)
    return spaces


def read_lcm_entry(entry: SpaceEntry) -> SpaceEntry:
    """An entry of LCM, its values as they are used.

    Raises:
        ConfigError: another setting, or values that it cannot have.
    """
    if entry.name not in SEARCHED:
        raise ConfigError(f"--space {entry.text}: expected NAME=VALUES with NAME one of {', '.join(SEARCHED)}")
    check_numbers(entry)
    kind = int if entry.name == NEIGHBOURS else float
    values = [kind(value) for value in entry.values] if isinstance(entry.values, list) else entry.values
    return replace(entry, values=values)


def read_method_entry(config: TuneConfig, entry: SpaceEntry, method: str, name: str) -> SpaceEntry:
    """An entry of another method; whole numbers become floats where the setting is one.

    Raises:
        ConfigError: no such method or setting, or values that it cannot have.
    """
    settings = getattr(config.supervised, method) if method in METHODS else None
    default = getattr(settings, name, None)
    if default is None:
        raise ConfigError(f"--space {entry.text}: expected METHOD.NAME with METHOD one of {', '.join(METHODS)}")
    for value in entry.list_bounds():
        if isinstance(default, int) and not isinstance(default, bool) and not isinstance(value, int):
            raise ConfigError(f"--space {entry.text}: expected whole numbers")
        try:
            with_method_settings(config.supervised, {method: {name: value}})
        except ValueError as error:
            raise ConfigError(f"--space {entry.text}: {error}") from None
    if not isinstance(default, float) or not isinstance(entry.values, list):
        return entry
    return replace(entry, values=[float(value) for value in entry.values])


def check_numbers(entry: SpaceEntry) -> None:
    """Refuse values that are no numbers or too small.

    Raises:
        ConfigError: names the entry.
    """
    whole = entry.name == NEIGHBOURS
    if whole and isinstance(entry.values, NumberRange):
        raise ConfigError(f"--space {entry.text}: expected values, as in neighbours=[10,50]: it is a whole number")
    for value in entry.list_bounds():
        if not isinstance(value, int | float) or (whole and value != int(value)):
            kind = "whole numbers" if whole else "numbers"
            raise ConfigError(f"--space {entry.text}: expected {kind}, such as {entry.name}=[1,2]")
        if value < (1 if whole else 0):
            raise ConfigError(f"--space {entry.text}: {value:g} is too small")
