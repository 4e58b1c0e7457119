"""Arrays out of the files that feature sets are passed around in: .mat, .npy, .npz, .h5, pickles of arrays, lists."""

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import loadmat
from scipy.sparse import issparse

from xmrank.runtime.errors import DataError

Arrays = dict[str, np.ndarray]

SAFE = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}
"""All that a pickled array needs to come back; none of it runs code that the file brings."""


def read_arrays(path: Path) -> Arrays:
    """Every array of a file, or of all files of a folder, by name.

    Names are those that the file gives, after the file's own: ``train_img/train_img``, ``clip_train/image``.

    Raises:
        DataError: no such file, none that can be read, or a pickle that holds anything but arrays, numbers and text.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in READERS)
        if not files:
            raise DataError(f"{path}: no feature files here; expected {', '.join(READERS)}")
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    elif path.suffix.lower() not in READERS:
        raise DataError(f"{path}: expected a folder, an embedding store, or one of {', '.join(READERS)}")
    else:
        files = [path]
    return {f"{file.stem}/{name}": array for file in files for name, array in _read_file(file).items()}


def _read_file(path: Path) -> Arrays:
    try:
        values = READERS[path.suffix.lower()](path)
    except DataError:
        raise
    except Exception as error:  # every library has its own for a file that is not of its format
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    return {name: array for name, value in values.items() if (array := _as_array(value)) is not None}


def _as_array(value: Any) -> np.ndarray | None:
    """Numbers as an array, sparse ones in full; None for anything else that a file holds beside them."""
    if issparse(value):
        return np.asarray(value.todense())
    if isinstance(value, list | tuple):
        try:
            value = np.asarray(value)
        except ValueError:
            return None
    return value if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biuf" else None


def _read_mat(path: Path) -> Mapping[str, Any]:
    """MATLAB's files: up to version 7 by scipy; 7.3 is HDF5 with the axes the other way round."""
    # HDF5 stores MATLAB's columns as rows.
    if h5py.is_hdf5(path):
        return {name: value.T for name, value in _read_hdf5(path).items()}
    return {name: value for name, value in loadmat(path).items() if not name.startswith("__")}


def _read_hdf5(path: Path) -> Mapping[str, Any]:
    values: dict[str, Any] = {}

    def keep_array(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not name.startswith("#"):
            values[name] = node[()]

    with h5py.File(path, "r") as file:
        file.visititems(keep_array)
    return values


def _read_npz(path: Path) -> Mapping[str, Any]:
    # allow_pickle=False: object arrays would run code of the file.
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read_npy(path: Path) -> Mapping[str, Any]:
    return {"": np.load(path, allow_pickle=False)}


class ArraysOnly(pickle.Unpickler):
    """Reads arrays, numbers, text and their containers, and refuses what would call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Called for every function or class that the file names."""
        if (module, name) not in SAFE:
            raise DataError(f"names {module}.{name}: a pickle may hold arrays, numbers and text only, others run code")
        return super().find_class(module, name)


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        # latin1 reads the bytes of arrays that Python 2 pickled.
        value = ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return value if isinstance(value, dict) else {"": value}


def _read_list(path: Path) -> Mapping[str, Any]:
    """The Wikipedia set's lists: text id, image id, class number in every line."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if not rows or any(len(row) != 3 for row in rows):
        return {}  # categories.list, or another list
    return {"label": np.array([int(row[2]) for row in rows])}


READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".mat": _read_mat,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".h5": _read_hdf5,
    ".h5py": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".pkl": _read_pickle,
    ".pickle": _read_pickle,
    ".list": _read_list,
}
