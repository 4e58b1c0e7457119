"""The readers of all formats, by name. A reader is its settings (``settings.py``), a function and one line here."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xmrank.datasets.coco import read_coco
from xmrank.datasets.csv_table import read_csv
from xmrank.datasets.dataset import Dataset, check_dataset
from xmrank.datasets.folder import read_folder
from xmrank.datasets.huggingface import read_huggingface
from xmrank.datasets.json_rows import read_json_rows
from xmrank.datasets.karpathy import read_karpathy
from xmrank.datasets.reader_settings import ReaderSettings
from xmrank.datasets.scenes.reader import read_scenes
from xmrank.datasets.webdataset import read_webdataset
from xmrank.runtime.errors import DataError

READERS: dict[str, Callable[[Any, float], Dataset]] = {
    "scenes": read_scenes,
    "karpathy": read_karpathy,
    "coco": read_coco,
    "csv": read_csv,
    "json": read_json_rows,
    "folder": read_folder,
    "huggingface": read_huggingface,
    "webdataset": read_webdataset,
}
"""(settings of the reader, max_broken) → the data set, by the settings' name."""


def read_dataset(settings: ReaderSettings, max_broken: float = 0.01) -> Dataset:
    """The data set that a reader's settings name, checked.

    Args:
        settings: of the reader.
        max_broken: fraction of the images, and of the captions, that may be left out because they are broken.

    Raises:
        DataError: data that is not as its format says, or fails the checks of every data set.
    """
    source = name_source(settings)
    try:
        with without_collection():
            return check_dataset(READERS[settings.name](settings, max_broken), source)
    except UnicodeEncodeError as error:  # JSON can say half of a character that needs two
        near = error.object[error.start :][:20]
        raise DataError(f"{source}: not text, near {near!r}: half a character") from None


@contextmanager
def without_collection() -> Iterator[None]:
    """Reading makes many objects and no cycles: to search them for cycles again and again takes a third of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def name_source(settings: ReaderSettings) -> str:
    """What messages call the data: the file of the annotations, else the folder of the images, else the reader."""
    # Not every reader has both.
    path = getattr(settings, "annotations", None) or getattr(settings, "images", None)
    return path.name if path else settings.name
