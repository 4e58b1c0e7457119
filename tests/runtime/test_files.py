"""Atomic writes and content hashes."""

import errno
import hashlib
import itertools
import json
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from xmrank.runtime.files import (
    atomic_path,
    sha256_file,
    sha256_json,
    sha256_table,
    write_array,
    write_json,
    write_rows,
    write_table,
    write_text,
)


def test_a_written_file_is_there_whole_and_alone(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "words\n")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_text() == "words\n"


def test_while_writing_the_old_content_stands(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent and temporary.name.startswith(".tmp-")
    assert path.read_text() == "new"


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail():
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_failure_of_the_system_names_the_file(tmp_path):
    def fail():
        with atomic_path(tmp_path / "a.npy") as temporary:
            temporary.touch()
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        fail()
    assert caught.value.filename == str(tmp_path / "a.npy")


def test_a_full_disk_is_an_error_of_the_system_for_safetensors_too(tmp_path):
    def save():
        with atomic_path(tmp_path / "a.safetensors") as temporary:
            save_file({"x": np.zeros(100_000)}, temporary)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_equal_json_gives_equal_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    write_json(tmp_path / "b.json", {"a": [2], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [2], "b": 1}


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
@pytest.mark.parametrize("shape", [(3, 4), (0, 4)])
def test_an_array_reads_back_as_numpy_wrote_it(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    write_array(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_transposed_array_reads_back(tmp_path):
    array = np.arange(12.0).reshape(3, 4).T
    write_array(tmp_path / "a.npy", array)
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)


def test_rows_are_written_part_after_part(tmp_path):
    parts = [np.ones((2, 3)), np.empty((0, 3)), np.full((1, 3), 2.0)]
    write_rows(tmp_path / "a.npy", iter(parts), (3, 3), np.dtype(np.float16))
    read = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert read.dtype == np.float16
    assert read.tolist() == [[1, 1, 1], [1, 1, 1], [2, 2, 2]]


def test_a_table_reads_back(tmp_path):
    table = pa.table({"id": ["a", None], "labels": [[1, 2], []]})
    write_table(tmp_path / "a.parquet", table)
    assert pq.read_table(tmp_path / "a.parquet").equals(table)


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"xmrank")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"xmrank").hexdigest()
    assert sha256_json({"b": 1, "a": None}) == hashlib.sha256(b'{"a":null,"b":1}').hexdigest()


rows = st.lists(
    st.tuples(st.none() | st.text(max_size=5), st.lists(st.integers(-5, 5), max_size=3), st.none() | st.integers(0, 9)),
    max_size=12,
)
SCHEMA = pa.schema({"text": pa.string(), "labels": pa.list_(pa.int32()), "row": pa.int64()})


def as_table(values):
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in values], schema=SCHEMA)


@given(rows, st.lists(st.integers(0, 12), max_size=4))
def test_a_tables_hash_does_not_depend_on_its_chunks(values, cuts):
    table = as_table(values)
    bounds = [0, *sorted(min(cut, len(table)) for cut in cuts), len(table)]
    chunked = pa.concat_tables([table[a:b] for a, b in itertools.pairwise(bounds)])
    within = pa.concat_tables([as_table([("x", [1], None)]), table, table])[1 : 1 + len(table)]
    assert sha256_table(chunked) == sha256_table(within) == sha256_table(table)


@given(rows, rows)
def test_different_tables_have_different_hashes(one, other):
    assert (sha256_table(as_table(one)) == sha256_table(as_table(other))) == (one == other)


def test_a_tables_hash_depends_on_names_and_types_but_not_on_metadata():
    table = pa.table({"row": pa.array([1, 2], pa.int32())})
    wider = table.cast(pa.schema({"row": pa.int64()}))
    assert len({sha256_table(t) for t in (table, table.rename_columns(["at"]), wider)}) == 3
    assert sha256_table(table.replace_schema_metadata({"made": "today"})) == sha256_table(table)
