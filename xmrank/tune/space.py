"""Search spaces: what is tried for each setting, and the points of a grid or of random draws."""

import itertools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from xmrank.config import TuneConfig
from xmrank.runtime.errors import ConfigError

Point = dict[str, Any]
"""Setting → value."""
POINT_STREAM = 0x9017
"""Separates the draw of points from other draws under the same seed."""
RANGE = re.compile(r"(uniform|log)\(\s*([^,()]+)\s*,\s*([^,()]+)\s*\)")


@dataclass(frozen=True)
class NumberRange:
    """Numbers between two bounds, evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool

    def number_at(self, share: float) -> float:
        """The number at a share of the way from the lower bound to the upper."""
        if not self.log:
            return float(self.low + share * (self.high - self.low))
        return float(self.low * (self.high / self.low) ** share)


Values = list[Any] | NumberRange
Space = dict[str, Values]
"""Setting → the values that are tried."""


@dataclass(frozen=True)
class SpaceEntry:
    """One entry of ``--space``.

    Attributes:
        text: as it was given, for messages.
        name: what stands before ``=``; perhaps with an owner, as in ``vsepp.margin``.
        values: what is tried.
    """

    text: str
    name: str
    values: Values

    def list_bounds(self) -> list[Any]:
        """The values, or the two bounds of a range: what is checked before the search."""
        return self.values if isinstance(self.values, list) else [self.values.low, self.values.high]


def read_entries(config: TuneConfig) -> list[SpaceEntry]:
    """Read ``--space``.

    Raises:
        ConfigError: no entry, one that is not a name and values, or a range in a grid.
    """
    if not config.space:
        raise ConfigError("--space: nothing to search; expected NAME=VALUES, as in learning_rate=[0.001,0.0003]")
    entries = []
    for text in config.space:
        name, equals, written = text.partition("=")
        values = read_values(text, written) if equals else None
        if values is None:
            raise ConfigError(f"--space {text}: expected NAME=[VALUE,...], uniform(a,b) or log(a,b)")
        if isinstance(values, NumberRange) and config.search == "grid":
            raise ConfigError(f"--space {text}: a grid needs values, a range is for --search random or optuna")
        entries.append(SpaceEntry(text, name, values))
    return entries


def read_values(entry: str, text: str) -> Values | None:
    """Read the values or the range of an entry; None where there are none."""
    # A range is tried first, because YAML takes it for a text.
    match = RANGE.fullmatch(text.strip())
    try:
        if match:
            low, high = float(match[2]), float(match[3])
            if not low < high or (match[1] == "log" and low <= 0):
                raise ConfigError(f"--space {entry}: expected a lower and a higher bound, above 0 for log")
            return NumberRange(low, high, match[1] == "log")
        values = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return None
    return [read_number(value) for value in values] if isinstance(values, list) and values else None


def read_number(value: Any) -> Any:
    """A number where YAML takes one for a text, as it does with 1e-3; else the value itself."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def add_entry(space: Space, name: str, entry: SpaceEntry) -> None:
    """Add a setting to a space.

    Raises:
        ConfigError: the space has it already.
    """
    if name in space:
        raise ConfigError(f"--space {entry.text}: expected each name once")
    space[name] = entry.values


def list_points(space: Space, config: TuneConfig) -> list[Point]:
    """The points of a grid or a random search; one without settings where the space is empty."""
    return list_grid(space) if config.search == "grid" or not space else draw_points(space, config)


def list_grid(space: Space) -> list[Point]:
    """All combinations, the last name varying fastest."""
    lists = [values for values in space.values() if isinstance(values, list)]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*lists)]


def draw_points(space: Space, config: TuneConfig) -> list[Point]:
    """Points drawn by the seed; the first ones are the same whatever the number of samples."""
    generator = np.random.default_rng([config.seed, POINT_STREAM])
    points = []
    for _ in range(config.samples):
        point: Point = {}
        # One number from 0 to 1 a setting, so that more samples begin with the same points.
        for (name, values), share in zip(space.items(), generator.random(len(space)), strict=True):
            if isinstance(values, NumberRange):
                point[name] = values.number_at(share)
            else:
                point[name] = values[int(share * len(values))]
        points.append(point)
    return points
