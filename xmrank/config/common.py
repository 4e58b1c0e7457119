"""What the configurations share."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from xmrank.runtime.errors import ConfigError

Direction = Literal["i2t", "t2i"]
DIRECTIONS: tuple[Direction, ...] = ("i2t", "t2i")
RUN = Path("runs/default")


def semantic(config: Any) -> dict[str, Any]:
    """What of a configuration decides the output: no paths, worker counts or switches (``config.RUNTIME_FIELDS``)."""
    values = dataclasses.asdict(config)
    for name in config.RUNTIME_FIELDS:
        del values[name]
    return values


def at_least(flag: str, value: float, least: float) -> None:
    """Raise ConfigError when a flag's value is below its least."""
    if value < least:
        raise ConfigError(f"{flag} {value}: expected at least {least}")
