"""Configuration of the model registry."""

from dataclasses import dataclass
from pathlib import Path

from xmrank.config.common import RUN
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class RegisterConfig:
    """Register the best ranker of each direction as an MLflow model."""

    rankers: Path = RUN / "rankers"
    """Directory of the trained rankers."""
    name: str = "xmrank"
    """Prefix of the model names: NAME-i2t and NAME-t2i. The alias best marks the version to use."""

    def __post_init__(self) -> None:
        check_model_name("--name", self.name)


def check_model_name(flag: str, name: str) -> None:
    """Raise ConfigError for a name that MLflow's registry does not accept."""
    if not name or set(name) & set("/:.%\"'@"):
        raise ConfigError(f"{flag} {name}: expected a name without / : . % @ or quotes")
