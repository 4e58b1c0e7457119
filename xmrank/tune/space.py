"""Search spaces: what is tried for each loss, and the points of a grid or a draw."""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from xmrank.config import Direction, TuneConfig
from xmrank.losses import LOSSES
from xmrank.runtime.errors import ConfigError
from xmrank.train.settings import LOSS_PREFIX, Point, check_loss, number, with_point

POINT_STREAM = 0x9017
RANGE = re.compile(r"(uniform|log)\(\s*([^,()]+)\s*,\s*([^,()]+)\s*\)")


@dataclass(frozen=True)
class NumberRange:
    """Numbers between two bounds, evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool

    def at(self, share: float) -> float:
        """The number at a share of the way from the lower bound to the upper."""
        if not self.log:
            return float(self.low + share * (self.high - self.low))
        return float(self.low * (self.high / self.low) ** share)


Values = list[Any] | NumberRange
Space = dict[str, Values]


@dataclass(frozen=True)
class SearchPoint:
    """A point of one loss and direction."""

    loss: str
    direction: Direction
    point: Point

    @property
    def name(self) -> str:
        """The name of its folder and of its run: the same for the same settings, whatever else is searched."""
        text = json.dumps(self.point, sort_keys=True)
        return f"{self.loss}-{self.direction}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def read_space(config: TuneConfig, loss: str) -> Space:
    """What is searched for a loss.

    Raises:
        ConfigError: an entry that is no name and values, a name that is no setting, a range in a grid.
    """
    space: Space = {}
    if not config.space:
        raise ConfigError("--space: nothing to search; expected NAME=VALUES, as in learning_rate=[0.001,0.0003]")
    for entry in config.space:
        name, found, text = entry.partition("=")
        owner, dot, parameter = name.partition(".")
        if dot and owner in LOSSES:
            if owner not in config.train.losses:
                raise ConfigError(f"--space {entry}: {owner} is not among --train.losses")
            if owner != loss:
                continue
            name = LOSS_PREFIX + parameter
        values = read_values(entry, text) if found else None
        if values is None or name in space:
            raise ConfigError(f"--space {entry}: expected NAME=[VALUE,...], uniform(a,b) or log(a,b), each name once")
        if isinstance(values, NumberRange) and config.search == "grid":
            raise ConfigError(f"--space {entry}: a grid needs values, a range is for --search random or optuna")
        for value in values if isinstance(values, list) else [values.low, values.high]:
            check_loss(with_point(config.train, loss, {name: value}), loss)
        space[name] = values
    return space


def read_values(entry: str, text: str) -> Values | None:
    """The values or the range in an entry; None where there are none."""
    match = RANGE.fullmatch(text.strip())
    try:
        if match:
            low, high = float(match[2]), float(match[3])
            if not low < high or (match[1] == "log" and low <= 0):
                raise ConfigError(f"--space {entry}: expected a lower and a higher bound, above 0 for log")
            return NumberRange(low, high, match[1] == "log")
        values = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return None
    return [number(value) for value in values] if isinstance(values, list) and values else None


def candidates(config: TuneConfig) -> list[SearchPoint]:
    """All points of a grid or a random search, by loss, direction and point; each once."""
    result = []
    for loss in config.train.losses:
        space = read_space(config, loss)
        for direction in config.train.directions:
            points = grid(space) if config.search == "grid" else draws(space, config)
            result += [SearchPoint(loss, direction, point) for point in points]
    return list({candidate.name: candidate for candidate in result}.values())


def grid(space: Space) -> list[Point]:
    """All combinations, the last name varying fastest."""
    lists = [values for values in space.values() if isinstance(values, list)]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*lists)]


def draws(space: Space, config: TuneConfig) -> list[Point]:
    """Points drawn by the seed; the first ones are the same whatever the number of samples."""
    generator = np.random.default_rng([config.seed, POINT_STREAM])
    return [
        {
            name: values.at(share) if isinstance(values, NumberRange) else values[int(share * len(values))]
            for (name, values), share in zip(space.items(), generator.random(len(space)), strict=True)
        }
        for _ in range(config.samples)
    ]
