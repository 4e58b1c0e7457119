"""Settings of a trial: the configuration's, or those that a search found best for its loss and direction."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from xmrank.config import TrainConfig, semantic
from xmrank.losses import LOSSES
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.paths import resolve
from xmrank.train.trials import Trial

Point = dict[str, Any]
"""Settings by dotted name: learning_rate, ranker.width, loss.temperature (of the trial's own loss)."""
Best = dict[str, dict[str, Point]]
"""Direction → loss → settings."""
LOSS_PREFIX = "loss."
FIXED = {"losses", "directions", "seeds", "best", "loss_parameters", "ranker", "refine", *TrainConfig.RUNTIME_FIELDS}
"""Fields of the configuration that are no trial's settings."""


def loss_parameters(config: TrainConfig, loss: str) -> dict[str, Any]:
    """The parameters of a loss, from ``--loss-parameters``.

    Raises:
        ConfigError: an entry that is not ``loss.parameter=value``, or a loss that does not have the parameter.
    """
    result: dict[str, Any] = {}
    for entry in config.loss_parameters:
        name, found, value = entry.partition("=")
        owner, dot, parameter = name.partition(".")
        if not found or not dot or owner not in LOSSES:
            raise ConfigError(f"--loss-parameters {entry}: expected LOSS.PARAMETER=VALUE, as in neural_ndcg.k=10")
        if owner == loss:
            result[parameter] = number(yaml.safe_load(value))
    return result


def number(value: Any) -> Any:
    """YAML takes 1e-3 for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def check_loss(config: TrainConfig, loss: str) -> None:
    """Try a loss with its parameters on a list of two items.

    Raises:
        ConfigError: a parameter or value that it refuses.
    """
    parameters, declared = loss_parameters(config, loss), LOSSES[loss].parameters
    known = {field.name for field in dataclasses.fields(declared)} if declared else set()
    for name in parameters:
        if name not in known:
            raise ConfigError(f"--loss-parameters {loss}.{name}: expected one of {', '.join(sorted(known))}")
    scores, labels = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    try:
        LOSSES[loss].sums(scores[..., None] if loss == "ordinal" else scores, labels, **parameters)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--loss-parameters of {loss}: {error}") from None


def with_point(config: TrainConfig, loss: str, point: Mapping[str, Any]) -> TrainConfig:
    """The configuration with a point's settings.

    Raises:
        ConfigError: a name that is no setting, or a value that cannot be.
    """
    names = {field.name for field in dataclasses.fields(TrainConfig)} - FIXED
    ranker_names = {field.name for field in dataclasses.fields(config.ranker)}
    changes: dict[str, Any] = {}
    ranker: dict[str, Any] = {}
    losses = list(config.loss_parameters)
    for name, value in point.items():
        value = tuple(value) if isinstance(value, list) else value
        if name.startswith(LOSS_PREFIX):
            losses.append(f"{loss}.{name.removeprefix(LOSS_PREFIX)}={json.dumps(value)}")
        elif name.startswith("ranker.") and name.removeprefix("ranker.") in ranker_names:
            ranker[name.removeprefix("ranker.")] = value
        elif name in names:
            changes[name] = value
        else:
            raise ConfigError(f"{name}: no setting of a training; expected one of {', '.join(sorted(names))}, "
                              "ranker.… or loss.…")  # fmt: skip
    try:
        changes["ranker"] = dataclasses.replace(config.ranker, **ranker)
        return dataclasses.replace(config, **changes, loss_parameters=tuple(losses))
    except TypeError as error:
        raise ConfigError(f"{dict(point)}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"--ranker.{error}") from None


def read_best(config: TrainConfig) -> Best:
    """What ``--best`` holds; empty without.

    Raises:
        DataError: no such file, or not one that ``jobs/tune.py`` writes.
    """
    if config.best is None:
        return {}
    path: Path = resolve(config.best)
    try:
        best: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (--best)") from None
    except ValueError:
        best = None
    levels = isinstance(best, dict) and all(isinstance(by_loss, dict) for by_loss in best.values())
    if not levels or not all(isinstance(point, dict) for by_loss in best.values() for point in by_loss.values()):
        raise DataError(f"{path}: expected direction → loss → settings, as jobs/tune.py writes them (--best)")
    return dict(best)


def config_of(trial: Trial, config: TrainConfig, best: Best) -> TrainConfig:
    """The configuration of one trial."""
    point = best.get(trial.direction, {}).get(trial.loss, {})
    return with_point(dataclasses.replace(config, best=None), trial.loss, point)


def semantic_with(config: TrainConfig, best: Best) -> dict[str, Any]:
    """The semantic configuration; what a search found counts by its content."""
    return semantic(config) | ({"best": best} if best else {})
