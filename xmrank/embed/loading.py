"""Arrays of the user, memory-mapped."""

import tokenize
from pathlib import Path

import numpy as np

from xmrank.datasets.uris import one_line
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import refuse_special_file
from xmrank.runtime.storage import local_copy


def load_array(path: Path, flag: str) -> np.ndarray:
    """A memory-mapped array from a ``.npy`` file; pickled content is refused."""
    refuse_special_file(path, flag)
    try:
        array = np.load(local_copy(path), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file ({flag})") from None
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:  # numpy parses the header as Python code
        raise DataError(f"{path}: not an array in .npy form: {one_line(error)} ({flag})") from None
    # np.load also opens .npz archives.
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: an archive of arrays, expected one array in .npy form ({flag})")
    return array
