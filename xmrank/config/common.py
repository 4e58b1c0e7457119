"""What the configurations share."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from xmrank.runtime.errors import ConfigError

Direction = Literal["i2t", "t2i"]
DIRECTIONS: tuple[Direction, ...] = ("i2t", "t2i")
RUN = Path("runs/default")
WORKER_TIMEOUT_S = 300.0
"""Default of ``--worker-timeout``; a node that an autoscaler starts takes a few minutes."""
ExplicitNames = Annotated[frozenset[str], tyro.conf.Suppress]
"""Dotted names of the settings that were given as flags; the command line fills it in, and ``--help`` omits it."""


def semantic(config: Any) -> dict[str, Any]:
    """The part of a configuration that decides the output: without ``config.RUNTIME_FIELDS`` (paths, workers …)."""
    values = as_values(config)
    # Where files are and how many processes write them does not change their contents.
    for name in config.RUNTIME_FIELDS:
        del values[name]
    return values


def name_flag(prefix: str, error: ValueError) -> str:
    """The message of a dataclass that knows nothing of flags ("width 0: expected …"), beginning with the flag."""
    name, _, rest = str(error).partition(" ")
    return f"--{prefix}.{name} ".replace("_", "-") + rest


def as_values(config: Any) -> dict[str, Any]:
    """A configuration as nested mappings.

    Unlike ``dataclasses.asdict``, it has the ``name`` of each chosen dataclass, no fields that do not count in
    comparisons, and of a nested dataclass in ``config.SELECTED_BY`` only the fields that another setting names (of the
    parameters of all losses those of the chosen losses).
    """
    values: dict[str, Any] = {}
    # A class variable, which is no field; a field of this name replaces it below.
    if isinstance(getattr(type(config), "name", None), str):
        values["name"] = config.name
    selected_by: dict[str, str] = getattr(config, "SELECTED_BY", {})
    for field in dataclasses.fields(config):
        # What does not count in a comparison does not count in a fingerprint.
        if not field.compare:
            continue
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = as_values(value)
        # A parameter of a loss that is not trained must not change the fingerprint.
        if field.name in selected_by:
            selected = getattr(config, selected_by[field.name])
            value = {name: part for name, part in value.items() if name in selected}
        values[field.name] = value
    return values


def at_least(flag: str, value: float, least: float) -> None:
    """Raise ConfigError when a flag's value is below its least, infinite or NaN."""
    if not least <= value < float("inf"):
        raise ConfigError(f"{flag} {value}: expected at least {least}")


def more_than_zero(flag: str, value: float) -> None:
    """Raise ConfigError when a flag's value is 0, negative, infinite or NaN."""
    if not 0 < value < float("inf"):
        raise ConfigError(f"{flag} {value}: expected more than 0")
