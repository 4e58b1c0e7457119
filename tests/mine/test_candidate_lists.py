"""Candidate lists in memory and on disk."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmrank.mine import candidate_lists
from xmrank.mine.candidate_lists import CandidateLists, read_parts, write_lists
from xmrank.runtime.errors import DataError

FIELDS = ("queries", "offsets", "candidates", "labels", "similarity")
TYPES = {"queries": "int32", "offsets": "int64", "candidates": "int32", "labels": "float32", "similarity": "float32"}


def make(lengths, seed=0):
    """Lists of the given lengths with made-up contents."""
    generator = np.random.default_rng(seed)
    items = int(sum(lengths))
    return CandidateLists(
        np.arange(len(lengths), dtype=np.int32) * 10,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        generator.integers(0, 1000, items).astype(np.int32),
        generator.integers(0, 2, items).astype(np.float32),
        generator.random(items).astype(np.float32),
    )


def same(one, other):
    return all(
        np.array_equal(getattr(one, field), getattr(other, field))
        and getattr(one, field).dtype == getattr(other, field).dtype
        for field in FIELDS
    )


def test_lists_that_come_in_parts_are_written_as_one(tmp_path, monkeypatch):
    """Parts of 4, 0, 3 and 5 lists, in row groups of 6: the file that all 12 at once give, with two row groups."""
    whole = make([3, 1, 0, 2, 5, 1, 4, 2, 2, 0, 1, 3])
    monkeypatch.setattr(candidate_lists, "ROW_GROUP", 6)
    edges = [0, 4, 4, 7, 12]
    write_lists(tmp_path / "parts", [whole.slice_lists(*edge) for edge in itertools.pairwise(edges)])
    whole.write(tmp_path / "whole")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert pq.read_metadata(tmp_path / "parts").num_row_groups == 2
    assert pq.read_table(tmp_path / "parts")["list_id"].to_pylist() == list(range(12))
    assert same(CandidateLists.read(tmp_path / "parts"), whole)
    assert same(CandidateLists.join(list(read_parts(tmp_path / "parts", 5))), whole)


def test_lists_of_matrices_take_the_first_columns_of_each_row():
    lists = CandidateLists.from_matrices(
        queries=np.array([7, 5, 6]),
        items=np.array([[1, 2, 3], [4, 0, 0], [0, 0, 0]]),
        labels=np.array([[0, 1, 0], [1, 9, 9], [9, 9, 9]]),
        similarity=np.array([[0.1, 0.2, 0.3], [0.4, 9, 9], [9, 9, 9]]),
        lengths=np.array([3, 1, 0]),
    )
    assert len(lists) == 3
    assert lists.queries.tolist() == [7, 5, 6]
    assert lists.offsets.tolist() == [0, 3, 4, 4] and lists.lengths.tolist() == [3, 1, 0]
    assert lists.candidates.tolist() == [1, 2, 3, 4] and lists.labels.tolist() == [0, 1, 0, 1]
    assert lists.similarity.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert {field: getattr(lists, field).dtype.name for field in FIELDS} == TYPES


def test_padding_by_hand():
    lists = CandidateLists.from_matrices(
        np.array([0, 1]), np.array([[5, 6, 7], [8, 9, 0]]), np.ones((2, 3)), np.full((2, 3), 0.5), np.array([3, 2])
    )
    candidates, labels, similarity, mask = lists.pad_lists(np.array([1, 0, 1]))
    assert candidates.tolist() == [[8, 9, 0], [5, 6, 7], [8, 9, 0]]
    assert labels.tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 0]]
    assert similarity.tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    assert mask.tolist() == [[True, True, False], [True, True, True], [True, True, False]]
    assert (candidates.dtype, labels.dtype, similarity.dtype, mask.dtype) == (np.int64, np.float32, np.float32, bool)


def test_padding_is_as_wide_as_the_longest_of_all():
    lists = make([4, 2, 0, 1])
    assert lists.pad_lists(np.array([1, 3]))[0].shape == (2, 4)
    assert lists.pad_lists(np.array([2]))[0].shape == (1, 4)
    assert lists.pad_lists(np.array([], int))[3].shape == (0, 4)


ragged = st.lists(st.integers(0, 6), max_size=12)


@given(ragged, st.data())
def test_padding_holds_every_item_at_its_index(lengths, data):
    lists = make(lengths)
    chosen = st.lists(st.integers(0, len(lengths) - 1), max_size=8) if lengths else st.just([])
    rows = np.array(data.draw(chosen), int)
    candidates, labels, similarity, mask = lists.pad_lists(rows)
    for index, row in enumerate(rows):
        part = slice(lists.offsets[row], lists.offsets[row + 1])
        assert mask[index].tolist() == [True] * lengths[row] + [False] * (candidates.shape[1] - lengths[row])
        for padded, flat in ((candidates, lists.candidates), (labels, lists.labels), (similarity, lists.similarity)):
            assert np.array_equal(padded[index][mask[index]], flat[part])
            assert not padded[index][~mask[index]].any()


@given(ragged)
def test_lists_read_back_as_written(tmp_path_factory, lengths):
    path = tmp_path_factory.mktemp("lists") / "i2t-train.parquet"
    lists = make(lengths)
    lists.write(path)
    assert same(CandidateLists.read(path), lists)


def test_the_file_has_the_columns_of_the_contract(tmp_path):
    make([2, 0, 3]).write(tmp_path / "lists.parquet")
    table = pq.read_table(tmp_path / "lists.parquet")
    assert table.schema == pa.schema(
        {
            "list_id": pa.int64(),
            "query": pa.int32(),
            "candidates": pa.list_(pa.int32()),
            "labels": pa.list_(pa.float32()),
            "similarity": pa.list_(pa.float32()),
        }
    )
    assert table["list_id"].to_pylist() == [0, 1, 2] and table["query"].to_pylist() == [0, 10, 20]
    assert [len(row) for row in table["labels"].to_pylist()] == [2, 0, 3]


def test_a_file_of_several_row_groups_reads_back(tmp_path):
    lists = make([2, 0, 3, 1, 5])
    lists.write(tmp_path / "lists.parquet")
    pq.write_table(pq.read_table(tmp_path / "lists.parquet"), tmp_path / "parts.parquet", row_group_size=2)
    assert same(CandidateLists.read(tmp_path / "parts.parquet"), lists)


def test_joining_keeps_the_order():
    lengths = [3, 0, 2, 5, 1]
    whole = make(lengths)
    parts = []
    for start, end in ((0, 2), (2, 2), (2, 5)):
        a, b = whole.offsets[start], whole.offsets[end]
        flat = (getattr(whole, field)[a:b] for field in ("candidates", "labels", "similarity"))
        parts.append(CandidateLists(whole.queries[start:end], whole.offsets[start : end + 1] - a, *flat))
    assert same(CandidateLists.join(parts), whole)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"i2t-train\.parquet: no such candidate lists"):
        CandidateLists.read(tmp_path / "i2t-train.parquet")
