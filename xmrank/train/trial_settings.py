"""Settings of a trial: those of the configuration, and the best ones of a search for its loss and direction."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from xmrank.config import DIRECTIONS, Direction, TrainConfig, semantic
from xmrank.config.common import name_flag
from xmrank.losses import LOSS_MODULES
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import read_json_file
from xmrank.runtime.paths import resolve
from xmrank.runtime.verification import verify_file
from xmrank.tracking.active_settings import list_active
from xmrank.train.trials import Trial

Point = dict[str, Any]
"""Settings by dotted name: learning_rate, ranker.width, loss.temperature (of the trial's own loss)."""
Best = dict[str, dict[str, Point]]
"""Direction → loss → settings."""
LOSS_PREFIX = "loss."
RANKER_PREFIX = "ranker."
FIXED = {"losses", "directions", "seeds", "best", "loss", "ranker", "refine", "detect", "explicit",
         *TrainConfig.RUNTIME_FIELDS}  # fmt: skip
"""Fields of the configuration that a point cannot set."""


def loss_parameters(config: TrainConfig, loss: str) -> dict[str, Any]:
    """The parameters of a loss as keyword arguments; empty for a loss without parameters."""
    parameters = getattr(config.loss, loss, None)
    return {} if parameters is None else dict(vars(parameters))


def check_loss(config: TrainConfig, loss: str) -> None:
    """Compute a loss with its parameters for a list of two items.

    Raises:
        ConfigError: the loss refuses its parameters.
    """
    # Not at the top: a training that is done needs the other functions only.
    import torch

    from xmrank.losses import LOSSES

    scores, labels = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    # The ordinal loss takes scores with an axis of levels.
    try:
        LOSSES[loss].sums(scores[..., None] if loss == "ordinal" else scores, labels, **loss_parameters(config, loss))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--loss.{loss.replace('_', '-')}: {error}") from None


def with_point(config: TrainConfig, loss: str, point: Mapping[str, Any]) -> TrainConfig:
    """The configuration with a point's settings.

    Args:
        config: the configuration to start from.
        loss: the loss of the trial, whose parameters a point sets as ``loss.NAME``.
        point: values by dotted name.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
    """
    names = {field.name for field in dataclasses.fields(TrainConfig)} - FIXED
    changes: dict[str, Any] = {}
    ranker: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    # JSON has no tuples, of which the configuration consists.
    for name, value in point.items():
        value = tuple(value) if isinstance(value, list) else value
        if name.startswith(LOSS_PREFIX):
            parameters[name.removeprefix(LOSS_PREFIX)] = value
        elif name.startswith(RANKER_PREFIX):
            ranker[name.removeprefix(RANKER_PREFIX)] = value
        elif name in names:
            changes[name] = value
        else:
            expected = f"{', '.join(sorted(names))}, ranker.… or loss.…"
            raise ConfigError(f"{name}: no setting of a training; expected one of {expected}")
    if ranker:
        changes["ranker"] = replace_parameters("ranker", config.ranker, ranker, f"ranker {config.ranker.name}")
    # Only the parameters of the trial's own loss change; those of the other losses stay as they are.
    if parameters:
        own = replace_parameters(f"loss.{loss}", getattr(config.loss, loss, None), parameters, f"loss {loss}")
        changes["loss"] = dataclasses.replace(config.loss, **{loss: own})
    try:
        return dataclasses.replace(config, **changes)
    except TypeError as error:
        raise ConfigError(f"{dict(point)}: {error}") from None


def replace_parameters(path: str, parameters: Any, changes: Mapping[str, Any], owner: str) -> Any:
    """A dataclass of parameters with some of them changed.

    Args:
        path: dotted name of the dataclass in the configuration, for messages.
        parameters: the dataclass; None: there are no parameters.
        changes: values by name.
        owner: what has the parameters, for messages.

    Raises:
        ConfigError: an unknown parameter, or a value that is not allowed.
    """
    known = [] if parameters is None else [field.name for field in dataclasses.fields(parameters)]
    for name in changes:
        if name not in known:
            expected = f"expected one of {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"{path}.{name}: {owner} has no such parameter; {expected}")
    try:
        return dataclasses.replace(parameters, **changes)
    except ValueError as error:
        raise ConfigError(name_flag(path, error)) from None
    except TypeError as error:  # a value of another type, which a check compares with a number
        raise ConfigError(f"{path} {dict(changes)}: {error}") from None


def read_best(config: TrainConfig) -> Best:
    """The settings in the file of ``--best``, without those that were given as flags; empty without ``--best``.

    Raises:
        DataError: no such file, or not one that ``jobs/tune.py`` writes, or one that has changed since.
    """
    if config.best is None:
        return {}
    path: Path = resolve(config.best)
    verify_file(path)
    best: Any = read_json_file(path, "--best")
    # Three levels of dictionaries; what they name is checked by the trial that uses it.
    levels = isinstance(best, dict) and all(isinstance(by_loss, dict) for by_loss in best.values())
    if not levels or not all(isinstance(point, dict) for by_loss in best.values() for point in by_loss.values()):
        raise DataError(f"{path}: expected direction → loss → settings, as jobs/tune.py writes them (--best)")
    for direction, by_loss in best.items():
        # A name with a slip of the pen would else be ignored.
        unknown = [name for name in by_loss if name not in LOSS_MODULES]
        if direction not in DIRECTIONS or unknown:
            raise DataError(f"{path}: no {f'loss {unknown[0]}' if unknown else f'direction {direction}'} (--best)")
    # A flag is more explicit than the result of a search.
    return {
        direction: {loss: drop_explicit(point, loss, config.explicit) for loss, point in by_loss.items()}
        for direction, by_loss in best.items()
    }


def drop_explicit(point: Point, loss: str, explicit: Collection[str]) -> Point:
    """A point without the settings that were given as flags: flags are never overridden.

    Args:
        point: settings of a trial with the loss.
        loss: its name, which a flag contains and a point does not (``--loss.ranknet.weighting``, ``loss.weighting``).
        explicit: dotted names of the settings that were given as flags.
    """
    own = f"{LOSS_PREFIX}{loss}."
    given = {f"{LOSS_PREFIX}{name.removeprefix(own)}" if name.startswith(own) else name for name in explicit}
    return {name: value for name, value in point.items() if name not in given}


def config_of(trial: Trial, config: TrainConfig, best: Best) -> TrainConfig:
    """The configuration of one trial: with the best settings for its direction and loss."""
    # A search need not have searched every loss and direction.
    point = best.get(trial.direction, {}).get(trial.loss, {})
    return with_point(dataclasses.replace(config, best=None), trial.loss, point)


def list_params(settings: TrainConfig, loss: str, direction: Direction, seed: int) -> dict[str, Any]:
    """The settings of one trial as the params of its MLflow run: those that have an effect."""
    params = semantic(settings)
    # Of the losses' parameters, those of its own loss.
    for name in ("losses", "directions", "seeds", "loss"):
        del params[name]
    own = {"loss": loss, "direction": direction, "seed": seed}
    return list_active({**params, "loss_parameters": loss_parameters(settings, loss)}) | own


def semantic_with(config: TrainConfig, best: Best) -> dict[str, Any]:
    """The semantic configuration; of a search's best settings the values count, not the path of the file."""
    return semantic(config) | ({"best": best} if best else {})
