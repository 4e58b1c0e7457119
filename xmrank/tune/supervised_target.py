"""LCM as the target of a search: every labelled set has a best point."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xmrank.config import SupervisedConfig, TuneConfig
from xmrank.runtime.errors import ConfigError
from xmrank.supervised.method_runs import cached_set, use_one_thread
from xmrank.supervised.method_training import two_stage_map
from xmrank.supervised.methods import fit_method, with_lcm_settings
from xmrank.supervised.set_readers import SetSource, read_source, sources_of
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

WEIGHTS = ("a", "b", "c")
NEIGHBOURS = "neighbours"
SEARCHED = (*WEIGHTS, "sigma", NEIGHBOURS)


@dataclass(frozen=True)
class SupervisedTarget(SearchTarget):
    """LCM on labelled sets; the mAP of two-stage search on the validation items decides.

    Attributes:
        config: of the search.
        base: what is not searched.
        sources: the sets.
        neighbours: numbers of neighbours that every training of a grid is validated for: they change no training.
    """

    config: TuneConfig
    base: SupervisedConfig
    sources: tuple[SetSource, ...]
    space: Space
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
        space = read_lcm_space(config)
        neighbours: tuple[int, ...] = ()
        if config.search == "grid" and NEIGHBOURS in space:
            values = space.pop(NEIGHBOURS)
            assert isinstance(values, list)
            # Taken out of the space: one training serves all numbers of neighbours.
            neighbours = tuple(values)
        sources = tuple(sources_of(base.data, base.labels, captions=base.captions, seed=base.split_seed))
        inputs = {f"data {source.key}": read_source(source).fingerprint for source in sources}
        return cls(config, base, sources, space, neighbours, inputs, {"method": "lcm"})

    def describe_config(self) -> dict[str, Any]:
        """The semantic configuration of the trainings."""
        names = ("neighbours", "patience", "captions", "split_seed")
        return {name: getattr(self.base, name) for name in names} | {"lcm": vars(self.base.lcm)}

    def list_groups(self) -> list[SearchGroup]:
        """A group for each set."""
        return [SearchGroup(source.key, {"set": source.key}, self.space) for source in self.sources]

    def count_epochs(self, group: SearchGroup) -> int:  # noqa: ARG002
        """Most rounds of a training."""
        return self.base.lcm.rounds

    def canonical_settings(self, settings: Point) -> Any:
        """Points whose a : b : c are in proportion are one training: the pivots are signs."""
        weights = {name: settings.get(name, getattr(self.base.lcm, name)) for name in WEIGHTS}
        sigma = settings.get("sigma", self.base.lcm.sigma)
        return [*reduce_weights(weights), sigma, settings.get(NEIGHBOURS)]

    def config_of(self, point: SearchPoint) -> SupervisedConfig:
        """The configuration of a point's training, which stops by the base's number of neighbours."""
        settings = {name: value for name, value in point.settings.items() if name != NEIGHBOURS}
        return with_lcm_settings(self.base, settings)

    def describe_run(self, point: SearchPoint) -> dict[str, Any]:
        """The settings of a training."""
        return {**vars(self.config_of(point).lcm), **point.settings, "seed": self.config.seed}

    def run_point(self, point: SearchPoint, folder: Path, cache: Path, report: ReportEpoch) -> PointOutcome:  # noqa: ARG002
        """Train LCM and validate it for every number of neighbours; an interrupted training starts again."""
        use_one_thread()
        source = next(source for source in self.sources if source.key == point.group.labels["set"])
        data = cached_set(source)
        rounds = 0

        def report_round(figures: EpochFigures) -> None:
            nonlocal rounds
            rounds += 1
            report(rounds, figures, figures["validation_map"])

        fitted = fit_method("lcm", data, self.config_of(point), self.config.seed, report_round)
        assert fitted.module is not None
        counts = self.neighbours or (point.settings.get(NEIGHBOURS, self.base.neighbours),)
        values = {count: two_stage_map(fitted.module, data, count) for count in counts}
        # The first of the highest, as everywhere.
        best = max(values, key=lambda count: values[count])
        figures = {f"validation_map_{count}_neighbours": value for count, value in values.items()}
        chosen = {NEIGHBOURS: best}
        return PointOutcome(values[best], fitted.best_round, len(fitted.history), chosen, figures)

    def write_best(self, best: Mapping[str, PointResult], counts: Mapping[str, int]) -> dict[str, Any]:
        """Set → settings, value and number of points, as ``supervised.py --best`` reads them."""
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


def read_lcm_space(config: TuneConfig) -> Space:
    """What is searched for LCM.

    Raises:
        ConfigError: another setting, or values that it cannot have.
    """
    space: Space = {}
    for entry in read_entries(config):
        if entry.name not in SEARCHED:
            raise ConfigError(f"--space {entry.text}: expected NAME=VALUES with NAME one of {', '.join(SEARCHED)}")
        check_numbers(entry)
        values = entry.values
        if isinstance(values, list):
            kind = int if entry.name == NEIGHBOURS else float
            values = [kind(value) for value in values]
        add_entry(space, entry.name, replace(entry, values=values))
    return space


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
