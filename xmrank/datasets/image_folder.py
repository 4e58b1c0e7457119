"""Hugging Face's image folders: images, and metadata files that name them and say their captions."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from xmrank.datasets.dataset import Dataset
from xmrank.datasets.json_rows import read_json_table
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.path_tables import add_path_table
from xmrank.datasets.reader_settings import HuggingFaceSettings
from xmrank.datasets.splits import split_of_folder
from xmrank.datasets.text_table import read_text_table
from xmrank.datasets.uris import suffix_of
from xmrank.runtime.paths import PathOrUri, below

METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"


def read_image_folder(
    root: PathOrUri, files: Sequence[str], settings: HuggingFaceSettings, max_broken: float
) -> Dataset:
    """The images that the metadata files among ``files`` name, each below the folder of its metadata.

    Raises:
        ConfigError: a flag names a column that a file does not have.
        DataError: a metadata file without file_name or captions, or more damaged rows than ``max_broken`` allows.
    """
    pairs = PairTable(str(PurePosixPath(str(root)).name))
    # Each split's folder may have its own metadata file.
    for name in filter(is_metadata, files):
        address = below(root, name)
        if suffix_of(name) == ".csv":
            table = read_text_table(address, name, "--images")
        else:
            table = read_json_table(address, name, "--images", FILE_NAME)
        folder = str(PurePosixPath(name).parent)
        add_path_table(
            pairs,
            table,
            settings,
            root,
            split_of=split_of_folder,
            folder="" if folder == "." else folder,
            usual_image=FILE_NAME,
        )
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


def is_metadata(location: str) -> bool:
    """Whether a file is an image folder's table, its name in any case."""
    return PurePosixPath(location).name.lower() in METADATA
