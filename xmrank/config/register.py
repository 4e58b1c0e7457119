"""Configuration of the model registry."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xmrank.config.common import RUN
from xmrank.runtime.errors import ConfigError

AUTO_NAME = "auto"
"""Stands for a name made of the data set's."""


@dataclass(frozen=True)
class RegisterConfig:
    """Register the best ranker of each direction as an MLflow model."""

    rankers: Path = RUN / "rankers"
    """Directory of the trained rankers."""
    name: str = AUTO_NAME
    """Prefix of the model names, NAME-i2t and NAME-t2i; auto: xmrank- and the name of the data set. The alias best
    marks the version to use."""
    embeddings: Path = RUN / "embeddings"
    """Embedding store that the rankers were trained on."""
    evaluation: Path = RUN / "evaluation"
    """Evaluation of the rankers. The alias moves only to a ranker that is significantly above the first stage there."""
    gallery: Literal["auto", "copy", "path", "none"] = "auto"
    """The registered model takes captions or images and ranks the embedding store: it has a copy of it (copy), reads it
    from its path (path), or is the ranker alone, which takes embeddings (none). auto: a copy up to 1 GiB, the path
    above; the ranker alone where queries cannot be encoded."""
    model: str | None = None
    """The encoder, local-dir:PATH or PATH.json, if the embeddings were made by one from a folder or file."""
    pretrained: Path | None = None
    """Checkpoint of the encoder, if the embeddings were made by one from a file."""
    force: bool = False
    """Give the alias to the best rankers without an evaluation, whatever holds it."""

    def __post_init__(self) -> None:
        check_model_name("--name", self.name)


def check_model_name(flag: str, name: str) -> None:
    """Raise ConfigError for a name that MLflow's registry does not accept."""
    if not name or set(name) & set("/:.%\"'@"):
        raise ConfigError(f"{flag} {name}: expected a name without / : . % @ or quotes")


def model_prefix(name: str, dataset: str) -> str:
    """The prefix of model names, with what MLflow does not accept in a data set's name replaced."""
    return name if name != AUTO_NAME else "xmrank-" + re.sub(r"[^\w-]+", "-", dataset)
