"""Arrays out of the files that feature sets are passed around in: .mat, .npy, .npz, .h5, pickles of arrays, lists."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xmrank.runtime.errors import DataError
from xmrank.runtime.storage import local_tree
from xmrank.supervised.guarded_reading import read_guarded
from xmrank.supervised.pickled_arrays import load_pickled_arrays

Arrays = dict[str, np.ndarray]
MAX_EXPANSION = 100
"""Bytes of the arrays in an archive for each byte of its file, at most; rows of few words are packed to a tenth."""
FREE_BYTES = 1 << 26
"""Bytes that the arrays of any archive may have."""


def read_arrays(path: Path) -> Arrays:
    """Every array of a file, or of all files of a folder, by name.

    Names are those that the file gives, after the file's own: ``train_img/train_img``, ``clip_train/image``.

    Raises:
        DataError: no such file, none that can be read, or a pickle that holds anything but arrays, numbers and text.
    """
    # Its libraries want files.
    path = local_tree(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{path}: no feature files here; expected {', '.join(SUFFIXES)}")
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder")
    elif not path.is_file():
        raise DataError(f"{path}: not a regular file")
    elif path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: expected a folder, an embedding store, or one of {', '.join(SUFFIXES)}")
    else:
        files = [path]
    # One process reads all files whose format is not safe to read in this one.
    native = [file for file in files if file.suffix.lower() in NATIVE and file.is_file()]
    results = dict(zip(native, read_guarded(native), strict=True))
    arrays: Arrays = {}
    for file in files:
        own = results[file] if file in results else _read_file(file)
        if isinstance(own, DataError):
            raise own
        arrays |= {f"{file.stem}/{name}": array for name, array in own.items()}
    return arrays


def _read_file(path: Path) -> Arrays:
    # Opening a pipe would wait for a writer without end.
    if not path.is_file():
        raise DataError(f"{path}: not a regular file")
    try:
        values = READERS[path.suffix.lower()](path)
    except DataError as error:
        raise DataError(f"{path}: {_one_line(error)}") from None
    except Exception as error:  # every library has its own for a file that is not of its format
        raise DataError(f"{path}: cannot be read: {_one_line(error)}") from None
    # Anything but numbers is left out: files hold names and notes beside the features.
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biuf"
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_npz(path: Path) -> Mapping[str, Any]:
    refuse_large_archive(path)
    # allow_pickle=False: object arrays would run code of the file.
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def refuse_large_archive(path: Path) -> None:
    """Raise DataError for an archive that would need far more memory than a file of its size.

    Readers of archives stop at the size that the directory of the archive claims, so the claims are what counts.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(FREE_BYTES, MAX_EXPANSION * size):
        raise DataError(f"unpacks to {unpacked} bytes, too many for a file of {size}")


def _read_npy(path: Path) -> Mapping[str, Any]:
    return {"": np.load(path, allow_pickle=False)}


def _read_pickle(path: Path) -> Mapping[str, Any]:
    value = load_pickled_arrays(path.read_bytes())
    return value if isinstance(value, dict) else {"": value}


def _read_list(path: Path) -> Mapping[str, Any]:
    """The Wikipedia set's lists: text id, image id, class number in every line."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if not rows or any(len(row) != 3 for row in rows):
        return {}  # categories.list, or another list
    return {"label": np.array([int(row[2]) for row in rows])}


NATIVE = (".mat", ".h5", ".h5py", ".hdf5")
"""Files that a process of its own reads."""
READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
    ".list": _read_list,
}
SUFFIXES = (*NATIVE, *READERS)
