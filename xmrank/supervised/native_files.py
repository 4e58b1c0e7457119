"""Reads MATLAB's and HDF5's files, in a process of its own: a damaged file can end the process that reads it.

    python -m xmrank.supervised.native_files FILE ...

Both formats are read by libraries written in C, which trust offsets and sizes in the file. `guarded_reading` starts
this module and takes the arrays from its standard output. Each array is a line of JSON with its name, and the array in
``.npy`` form. A last line for each file says that the file is done, or what is wrong with it.
"""

import contextlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from scipy.io import loadmat, whosmat
from scipy.sparse import issparse

from xmrank.runtime.errors import DataError

KINDS = "biuf"
MAX_EXPANSION = 2000
"""Bytes of all arrays for each byte of their file, at most. HDF5's and MATLAB's compression reaches about 1000."""
NUMBER = 8
"""Bytes of MATLAB's largest number that is not complex."""
NO_NUMBERS = {"char", "cell", "struct", "object", "function", "opaque"}
"""MATLAB's classes of values that are not read."""


def read_matlab(path: Path) -> dict[str, Any]:
    """MATLAB's files: up to version 7 by scipy; 7.3 is HDF5 with the axes the other way round.

    Raises:
        DataError: as `read_hdf5`.
    """
    # HDF5 stores MATLAB's columns as rows.
    if h5py.is_hdf5(path):
        return {name: value.T for name, value in read_hdf5(path).items()}
    shapes = {name: shape for name, shape, kind in whosmat(path) if kind not in NO_NUMBERS}
    # From the headers, before anything is unpacked; a sparse matrix counts as the dense one that it becomes.
    refuse_large_arrays(path, {name: prod(shape) * NUMBER for name, shape in shapes.items()})
    values = {name: value for name, value in loadmat(path, variable_names=list(shapes)).items() if name in shapes}
    return {name: np.asarray(value.todense()) if issparse(value) else value for name, value in values.items()}


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """The datasets of numbers in an HDF5 file, by their paths.

    Raises:
        DataError: data that lies in another file or behind a link, or that needs too much memory.
    """
    datasets = {}
    with h5py.File(path, "r") as file:
        for name, dataset in walk_datasets(file):
            # Data in other files would show what the user can read and the file's author cannot.
            if dataset.external or dataset.is_virtual:
                raise DataError(f"{name} lies in another file; expected all data in this one")
            if dataset.shape is None or dataset.dtype.kind not in KINDS:
                continue
            datasets[name] = dataset
        refuse_large_arrays(path, {name: dataset.nbytes for name, dataset in datasets.items()})
        return {name: dataset[()] for name, dataset in datasets.items()}


def refuse_large_arrays(path: Path, sizes: dict[str, int]) -> None:
    """Raise DataError when the arrays of a file need more memory together than a file of its size can hold.

    Args:
        path: of the file.
        sizes: bytes of each array in memory, by name.
    """
    total, size = sum(sizes.values()), path.stat().st_size
    if total > size * MAX_EXPANSION:
        largest = max(sizes, key=lambda name: sizes[name])
        raise DataError(f"{largest} has {sizes[largest]} bytes, all arrays {total}, too many for a file of {size}")


def walk_datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Name and dataset of all below a file, without MATLAB's own under ``#``; each group is entered once.

    Raises:
        DataError: a soft or external link.
    """
    pending: list[tuple[str, h5py.Group]] = [("", file)]
    seen = set()
    while pending:
        prefix, group = pending.pop()
        for key in group:
            name = f"{prefix}{key}"
            if name.startswith("#"):
                continue
            # Links may lead to other files, and get() with getlink does not follow them.
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise DataError(f"{name} is a link to other data; expected all data in this file, without links")
            node = group[key]
            # A group can contain itself.
            address = h5py.h5o.get_info(node.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(node, h5py.Group):
                pending.append((f"{name}/", node))
            elif isinstance(node, h5py.Dataset):
                yield name, node


def send_file(path: Path, sink: BinaryIO) -> None:
    """Write the arrays of a file, and then that it is done; or what is wrong with it."""
    try:
        values = read_matlab(path) if path.suffix.lower() == ".mat" else read_hdf5(path)
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in KINDS:
                send_line(sink, {"array": name})
                np.lib.format.write_array(Unseekable(sink), value, allow_pickle=False)
        send_line(sink, {"done": str(path)})
    except BrokenPipeError:
        raise
    except Exception as error:  # every library has its own for a file that is not of its format
        send_line(sink, {"error": " ".join(str(error).split())[:200] or type(error).__name__})


class Unseekable:
    """A pipe for numpy, which takes a file of Python's for one on a disk."""

    def __init__(self, sink: BinaryIO) -> None:
        self.sink = sink

    def write(self, content: bytes) -> int:
        """Write bytes."""
        return self.sink.write(content)


def send_line(sink: BinaryIO, value: dict[str, str]) -> None:
    """Write a line of JSON."""
    sink.write(json.dumps(value).encode() + b"\n")
    sink.flush()


def main() -> None:
    """Send the arrays of the files that the arguments name."""
    # A crash is expected here: it leaves no core dump.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Whatever a library prints must not come between the arrays.
    with os.fdopen(os.dup(1), "wb") as sink:
        os.dup2(2, 1)
        # The reader of the pipe may have seen enough.
        with contextlib.suppress(BrokenPipeError):
            for path in sys.argv[1:]:
                send_file(Path(path), sink)


if __name__ == "__main__":
    main()
