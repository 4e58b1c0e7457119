"""Reader of Hugging Face data sets: parquet files or image folders, on disk, at a URI or on the hub."""

from collections.abc import Sequence
from pathlib import Path

from xmrank.datasets.dataset import Dataset
from xmrank.datasets.hub import download_dataset, is_hub_name
from xmrank.datasets.image_folder import METADATA, is_metadata, read_image_folder
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.parquet_tables import ParquetTable, add_parquet_rows, find_repeated_names
from xmrank.datasets.reader_settings import HuggingFaceSettings
from xmrank.datasets.uris import file_sizes, is_folder, list_files, suffix_of
from xmrank.datasets.webdataset import read_tars
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri, below, resolve_uri


def read_huggingface(settings: HuggingFaceSettings, max_broken: float) -> Dataset:
    """The data set in ``--images``: a folder, a URI, or a name on the hub (owner/name, owner/name@revision).

    Parquet files hold images (bytes, or paths) and captions, also as caption_0, caption_1, ... or lists; without any,
    an image folder has metadata.csv or metadata.jsonl with file_name, and a folder of tars is read as WebDataset.
    The split is the column ``--split-field``, else the one in the name of the file or its folder.

    Raises:
        ConfigError: a flag names a column that a file does not have.
        DataError: no such folder, no file of a known form in it, a broken file, or a download that failed.
    """
    root = find_root(settings.images)
    files = list_files(root)
    tables = [name for name in files if suffix_of(name) == ".parquet"]
    if tables:
        return read_parquets(root, files, tables, settings, max_broken)
    if any(map(is_metadata, files)):
        return read_image_folder(root, files, settings, max_broken)
    if tars := [name for name in files if suffix_of(name) == ".tar"]:
        return read_tars(root, tars, settings, max_broken)
    raise DataError(f"{root}: expected .parquet files, or images with {' or '.join(METADATA)} (--images)")


def find_root(images: Path | str) -> PathOrUri:
    """The folder that ``--images`` names, downloaded when it is a name on the hub."""
    root = resolve_uri(images)
    return download_dataset(str(images)) if not is_folder(root) and is_hub_name(str(images)) else root


def read_parquets(
    root: PathOrUri, files: Sequence[str], names: Sequence[str], settings: HuggingFaceSettings, max_broken: float
) -> Dataset:
    """The rows of the parquet files among ``files``; an image that is stored in them stays there."""
    pairs = PairTable(root.name if isinstance(root, Path) else root)
    addresses = [below(root, name) for name in names]
    tables = []
    for name, address, size in zip(names, addresses, file_sizes(addresses), strict=True):
        # pyarrow would say something about a footer.
        if (size or 0) == 0:
            raise DataError(f"{name}: an empty file, expected parquet")
        tables.append(ParquetTable.open(name, address, size or 0, settings))
    repeated = find_repeated_names(tables)
    for table in tables:
        add_parquet_rows(pairs, table, root, repeated)
    for name in files:
        if suffix_of(name) == ".tar" or is_metadata(name):
            pairs.left_out.unused["tars and metadata files beside the parquet files"] += 1
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)
