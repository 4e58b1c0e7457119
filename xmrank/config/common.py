"""What the configurations share."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from xmrank.runtime.errors import ConfigError

Direction = Literal["i2t", "t2i"]
DIRECTIONS: tuple[Direction, ...] = ("i2t", "t2i")
RUN = Path("runs/default")


def semantic(config: Any) -> dict[str, Any]:
    """The part of a configuration that decides the output: without ``config.RUNTIME_FIELDS`` (paths, workers …)."""
    values = as_values(config)
    for name in config.RUNTIME_FIELDS:
        del values[name]
    return values


def as_values(config: Any) -> dict[str, Any]:
    """A configuration as nested mappings, as ``dataclasses.asdict``, and with the ``name`` of each chosen dataclass."""
    values: dict[str, Any] = {}
    if isinstance(getattr(type(config), "name", None), str):
        values["name"] = config.name
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values[field.name] = as_values(value) if dataclasses.is_dataclass(value) else value
    return values


def at_least(flag: str, value: float, least: float) -> None:
    """Raise ConfigError when a flag's value is below its least."""
    if value < least:
        raise ConfigError(f"{flag} {value}: expected at least {least}")
