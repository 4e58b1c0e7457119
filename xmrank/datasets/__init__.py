"""Readers: any input format becomes two tables, images and captions."""

from collections.abc import Callable

from xmrank.config import EmbedConfig
from xmrank.datasets.karpathy import read_karpathy
from xmrank.datasets.scenes_reader import read_scenes
from xmrank.datasets.tables import Dataset as Dataset
from xmrank.datasets.tables import checked
from xmrank.errors import ConfigError

READERS: dict[str, Callable[[EmbedConfig], Dataset]] = {
    "karpathy": read_karpathy,
    "scenes": read_scenes,
}


def read(config: EmbedConfig) -> Dataset:
    """The data set that the configuration names, checked.

    Raises:
        ConfigError: an unknown ``--dataset``.
        DataError: data that is not as its format says, or fails the checks of every data set.
    """
    if config.dataset not in READERS:
        raise ConfigError(f"--dataset {config.dataset}: expected one of {', '.join(READERS)}")
    dataset = READERS[config.dataset](config)
    return checked(dataset, config.annotations.name if config.annotations else config.dataset)
