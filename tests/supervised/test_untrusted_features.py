"""Feature files that were made to do harm, and files with damaged bytes: refused in one line, the process lives on."""

import io
import os
import pickle
import random
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from xmrank.runtime.errors import DataError
from xmrank.supervised.arrays import read_arrays
from xmrank.supervised.guarded_reading import read_guarded
from xmrank.supervised.native_files import MAX_EXPANSION, read_hdf5, read_matlab
from xmrank.supervised.pickled_arrays import load_pickled_arrays

MUTATIONS = int(os.environ.get("XMRANK_MUTATIONS", "300"))
"""Damaged files of each format; more of them in a longer run."""


class Call:
    """An object whose pickle calls a function of these arguments, and then sets this state."""

    def __init__(self, function, arguments, *state):
        self.reduced = (function, arguments, *state)

    def __reduce__(self):
        return self.reduced


def pickle_type(text, *state):
    return Call(np.dtype, (text,), *state)


RECONSTRUCT = np.zeros(1).__reduce__()[0]
SCALAR = np.float64(0).__reduce__()[0]
POINTER = struct.pack("<Q", 0x4141414141414141)
# The last number holds flags: 0 says that the elements are not pointers, though those of the type O are.
NOT_POINTERS = (3, "|", None, None, None, -1, -1, 0)
POINTER_FIELD = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
PLAIN = (3, "<", None, None, None, -1, -1, 0)


def nest_tuples(depth):
    """A pickle of a dict whose key is a tuple in a tuple in a tuple …: hashing it overflows the stack."""
    return b"\x80\x02}" + b")" + b"\x85" * depth + b"K\x01s."


PICKLES = {
    "a pointer as a number": (
        pickle.dumps({"image": Call(SCALAR, (pickle_type("O8", NOT_POINTERS), POINTER))}),
        None,
    ),
    "an array of pointers": (
        pickle.dumps(
            [Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), pickle_type("O8", NOT_POINTERS), False, POINTER))]
        ),
        None,
    ),
    "pointers in a field": (
        pickle.dumps({"image": [Call(SCALAR, (pickle_type("V8", POINTER_FIELD), POINTER))] * 2}),
        None,
    ),
    "fields in a type of numbers": (
        pickle.dumps(Call(SCALAR, (pickle_type("f8", POINTER_FIELD), POINTER))),
        "a data type of numbers with parts",
    ),
    "more rows than bytes": (
        pickle.dumps(
            Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1 << 30,), pickle_type("f8", PLAIN), False, POINTER))
        ),
        "bytes do not fit its shape and data type",
    ),
    "a negative shape": (
        pickle.dumps(
            Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (-1, -1), pickle_type("f8", PLAIN), False, POINTER))
        ),
        "shape is not of numbers",
    ),
    "the state of another object": (pickle.dumps(Call(np.ndarray, ((1,),), {"data": 1})), "calls numpy.ndarray"),
    "a key in a key": (nest_tuples(200_000), "keys are neither text nor numbers"),
    "one row many times": (pickle.dumps({"image": [[1] * 2000] * 20_000}), "repeats its rows"),
    "a class": (b"\x80\x02cposix\nsystem\n(X\x02\x00\x00\x00idtR.", "names posix.system"),
    "a class by an instance": (b"(S'id'\niposix\nsystem\n.", "has an instruction that arrays do not need"),
    "an extension": (b"\x80\x02\x82\x01.", "has an instruction that arrays do not need"),
    "a claimed size": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b".", "cannot be read: the pickle ends early"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_crafted_pickles_do_no_harm(name, tmp_path):
    content, message = PICKLES[name]
    path = tmp_path / "clip_train.pkl"
    path.write_bytes(content)
    if message is None:  # of a type that is not of numbers: the content is never looked at
        assert read_arrays(path) == {}
        return
    with pytest.raises(DataError, match=rf"clip_train.pkl: .*{message}") as caught:
        read_arrays(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        np.arange(24, dtype=np.float16).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(12, dtype=np.uint8)[::2],
        np.array([[True, False]]),
        np.zeros((0, 4), np.float32),
    ],
)
def test_pickled_arrays_come_back_as_they_were(array, protocol):
    content = pickle.dumps({"a": array, "name": "x", "same": array}, protocol)
    actual, expected = load_pickled_arrays(content), pickle.loads(content)  # noqa: S301 - made one line above
    for name in ("a", "same"):
        np.testing.assert_array_equal(actual[name], array)
        assert actual[name].dtype == array.dtype
        assert actual[name].flags.c_contiguous == expected[name].flags.c_contiguous
    assert actual["name"] == "x"


def test_lists_of_numbers_and_of_arrays_are_arrays():
    value = {
        "labels": [1, 2, 3],
        "numbers": [np.float32(1), np.float32(2)],
        "rows": [np.arange(3), np.arange(3)],
        "lists": [(1.0, 2.0)] * 4,
        "ids": ["a", "b"],
        "names": np.array(["a", "b"]),
        "objects": np.array([None, "b"], object),
        "ragged": [[1], [2, 3]],
    }
    actual = load_pickled_arrays(pickle.dumps(value, protocol=2))
    for name in ("labels", "numbers", "rows", "lists"):
        np.testing.assert_array_equal(actual[name], np.asarray(value[name]))
        assert actual[name].dtype == np.asarray(value[name]).dtype
    assert [name for name in value if actual[name] is None] == ["ids", "names", "objects", "ragged"]


def write_external(file, secret):
    file.create_dataset("train_img", (4,), "u1", external=[(str(secret), 0, 4)])


def write_virtual(file, secret):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "train_img", (4,))
    file.create_virtual_dataset("train_img", layout)


def write_external_link(file, secret):
    file["train_img"] = h5py.ExternalLink(str(secret), "/train_img")


def write_soft_link(file, secret):
    file["here"] = np.zeros(3)
    file.create_group("g")["train_img"] = h5py.SoftLink("/here")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_external, "train_img lies in another file"),
        (write_virtual, "train_img lies in another file"),
        (write_external_link, "train_img is a link"),
        (write_soft_link, "g/train_img is a link"),
    ],
)
@pytest.mark.parametrize("suffix", ["h5", "mat"])
def test_hdf5_with_data_elsewhere_is_refused(write, message, suffix, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["train_img"] = np.arange(4, dtype=np.uint8)
    path = tmp_path / f"features.{suffix}"
    with h5py.File(path, "w") as file:
        write(file, secret)
    with pytest.raises(DataError, match=rf"features.{suffix}: cannot be read: .*{message}"):
        read_arrays(path)


def test_hdf5_that_claims_too_much_or_contains_itself(tmp_path):
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file["a/b"] = np.arange(3)
        file["a/again"] = file["a"]
    assert list(read_arrays(path)) == ["features/a/b"]
    with h5py.File(path, "w") as file:
        file.create_dataset("train_img", (1 << 20, 1 << 20), "f8", chunks=(1024, 1024))
    with pytest.raises(DataError, match=r"train_img has 8796093022208 bytes, all arrays .*, too many for a file of"):
        read_arrays(path)


def test_the_arrays_of_a_file_share_one_limit(tmp_path):
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        for number in range(20):
            file.create_dataset(f"a{number}", (500, 1000), "f8", chunks=(500, 1000))
    assert path.stat().st_size * MAX_EXPANSION > 4_000_000  # enough for each, not for all
    with pytest.raises(DataError, match="has 4000000 bytes, all arrays 80000000, too many for a file of"):
        read_hdf5(path)
    path = tmp_path / "sparse.mat"
    savemat(path, {"note": "by hand", "image": csc_matrix((20_000, 4000)), "small": csc_matrix([[0, 1.0]])})
    with pytest.raises(DataError, match="image has 640000000 bytes, all arrays 640000016, too many for a file of"):
        read_matlab(path)
    savemat(path, {"note": "by hand", "small": csc_matrix([[0, 1.0]]), "cells": np.array([1, "a"], object)})
    np.testing.assert_equal(read_matlab(path), {"small": np.array([[0, 1.0]])})


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    for suffix in ("mat", "npy", "pkl", "h5"):
        folder = tmp_path / suffix
        folder.mkdir()
        os.mkfifo(folder / f"pipe.{suffix}")
        for path in (folder, folder / f"pipe.{suffix}"):
            with pytest.raises(DataError, match="not a regular file"):
                read_arrays(path)


def test_a_reader_that_dies_or_hangs_is_one_line(tmp_path, monkeypatch):
    files = [tmp_path / "a.mat", tmp_path / "b.mat"]
    for path in files:
        savemat(path, {"train_img": np.arange(3.0)})
    # Modules that stand in for the reader: the first dies at each file, the second never answers.
    (tmp_path / "dying.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    (tmp_path / "hanging.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("xmrank.supervised.guarded_reading.READER", "dying")
    died = read_guarded(files)
    assert [str(error) for error in died] == [
        f"{path}: cannot be read: its reader was ended by SIGSEGV; the file is damaged" for path in files
    ]
    monkeypatch.setattr("xmrank.supervised.guarded_reading.READER", "hanging")
    assert "took too long" in str(read_guarded(files[:1], seconds=0.1)[0])


def example_pickle(protocol):
    generator = np.random.default_rng(0)
    features = {"image": generator.normal(size=(6, 5)), "text": np.asfortranarray(generator.normal(size=(6, 4)))}
    return pickle.dumps(features | {"label": [1, 2, 3, 1, 2, 3], "ids": ["a", "b"]}, protocol)


def example_hdf5():
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5["train_img"] = np.arange(30.0).reshape(6, 5)
        h5.create_dataset("train_txt", data=np.arange(24.0).reshape(6, 4), chunks=(3, 4), compression="gzip")
        h5["labels/train"] = np.arange(6)
    return file.getvalue()


def example_matlab(*, compressed):
    file = io.BytesIO()
    savemat(file, {"train_img": np.arange(30.0).reshape(6, 5), "note": "by hand"}, do_compression=compressed)
    return file.getvalue()


def mutate(content, generator):
    """A damaged copy: a changed byte, zeroed bytes, a cut, or a part written twice."""
    damaged = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8))):
        start = generator.randrange(len(damaged))
        kind = generator.randrange(5)
        if kind < 2:
            damaged[start] = generator.randrange(256)
        elif kind == 2:
            end = min(len(damaged), start + generator.choice((4, 16, 64)))
            damaged[start:end] = bytes(end - start)
        elif kind == 3:
            del damaged[max(start, 8) :]
        else:
            damaged[start:start] = damaged[start : start + generator.randrange(1, 32)]
    return bytes(damaged)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_damaged_pickles_end_with_one_line(protocol, tmp_path):
    generator = random.Random(protocol)
    content, path = example_pickle(protocol), tmp_path / "clip_train.pkl"
    errors = []
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(content, generator))
        try:
            read_arrays(path)
        except DataError as error:
            errors.append(str(error))
    assert len(errors) > MUTATIONS // 4  # most of a pickle is numbers, whose change cannot be seen
    assert not [error for error in errors if "\n" in error]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("h5", example_hdf5()),
        ("mat", example_matlab(compressed=False)),
        ("mat", example_matlab(compressed=True)),
    ],
    ids=["hdf5", "matlab", "compressed matlab"],
)
def test_damaged_native_files_end_with_one_line(suffix, content, tmp_path):
    generator = random.Random(0)
    files: list[Path] = []
    for number in range(MUTATIONS):
        files.append(tmp_path / f"{number}.{suffix}")
        files[-1].write_bytes(mutate(content, generator))
    results = read_guarded(files, seconds=20)
    assert len(results) == MUTATIONS
    errors = [str(result) for result in results if isinstance(result, DataError)]
    assert errors
    assert not [error for error in errors if "\n" in error or "cannot be read: " not in error]


def test_a_matlab_file_that_crashes_scipy_is_one_line(tmp_path):
    content = bytearray(example_matlab(compressed=False))
    content[192:196] = bytes(4)  # the tag of the numbers
    path = tmp_path / "train_img.mat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train_img.mat: cannot be read: its reader was ended by SIGSEGV"):
        read_arrays(path)
