"""Readers: any input format becomes two tables, images and captions."""

from collections.abc import Callable
from dataclasses import dataclass

from xmrank.config import EmbedConfig
from xmrank.datasets.coco import read_coco
from xmrank.datasets.csv_table import read_csv
from xmrank.datasets.dataset import Dataset as Dataset
from xmrank.datasets.dataset import checked
from xmrank.datasets.folder import read_folder
from xmrank.datasets.huggingface import read_huggingface
from xmrank.datasets.karpathy import read_karpathy
from xmrank.datasets.scenes.reader import read_scenes
from xmrank.datasets.webdataset import read_webdataset
from xmrank.runtime.errors import ConfigError, DataError


@dataclass(frozen=True)
class DatasetReader:
    """A format: what reads it, and what it needs ``--annotations`` and ``--images`` to name (empty: nothing)."""

    read: Callable[[EmbedConfig], Dataset]
    annotations: str = ""
    images: str = ""


READERS = {
    "scenes": DatasetReader(read_scenes),
    "karpathy": DatasetReader(read_karpathy, annotations="FILE.json", images="FOLDER"),
    "coco": DatasetReader(read_coco, annotations="FILE.json", images="FOLDER"),
    "csv": DatasetReader(read_csv, annotations="FILE.csv", images="FOLDER"),
    "folder": DatasetReader(read_folder, images="FOLDER"),
    "huggingface": DatasetReader(read_huggingface, images="FOLDER (or OWNER/NAME on the hub)"),
    "webdataset": DatasetReader(read_webdataset, images="FOLDER (or a tar, or a pattern)"),
}


def read(config: EmbedConfig) -> Dataset:
    """The data set that the configuration names, checked.

    Raises:
        ConfigError: an unknown ``--dataset``, or one without the flags that it needs.
        DataError: data that is not as its format says, or fails the checks of every data set.
    """
    if config.dataset not in READERS:
        raise ConfigError(f"--dataset {config.dataset}: expected one of {', '.join(READERS)}")
    reader = READERS[config.dataset]
    needed = {"annotations": reader.annotations, "images": reader.images}
    if any(what and getattr(config, name) is None for name, what in needed.items()):
        flags = " and ".join(f"--{name} {what}" for name, what in needed.items() if what)
        raise ConfigError(f"--dataset {config.dataset} needs {flags}")
    source = (config.annotations if reader.annotations else config.images) if reader.images else None
    name = source.name if source else config.dataset
    try:
        return checked(reader.read(config), name)
    except UnicodeEncodeError as error:  # JSON can say half of a character that needs two
        raise DataError(f"{name}: not text, near {error.object[error.start :][:20]!r}: half a character") from None
