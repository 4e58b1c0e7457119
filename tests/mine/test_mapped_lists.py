"""Lists that do not fit into memory give the same batches as those that do."""

import numpy as np
import pytest

from xmrank.mine import mapped_lists as mapped
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.mapped_lists import open_lists
from xmrank.runtime.errors import DataError

LENGTHS = np.random.default_rng(0).integers(0, 9, 100)


@pytest.fixture
def path(tmp_path):
    """A file of ragged lists, in several row groups."""
    rng = np.random.default_rng(1)
    items = int(LENGTHS.sum())
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    candidates = rng.integers(0, 1000, items).astype(np.int32)
    labels, similarity = rng.random((2, items), np.float32)
    CandidateLists(np.arange(100, dtype=np.int32), offsets, candidates, labels, similarity).write(
        tmp_path / "i2t-train.parquet"
    )
    return tmp_path / "i2t-train.parquet"


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(mapped, "IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(mapped, "BATCH", 7)


def test_small_lists_are_read_and_nothing_is_unpacked(path, tmp_path):
    assert len(open_lists(path, tmp_path / "cache")) == 100
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("small_memory")
def test_large_lists_are_mapped_and_give_the_same_batches(path, tmp_path):
    mapped_lists, read = open_lists(path, tmp_path / "cache"), CandidateLists.read(path)
    assert isinstance(mapped_lists.candidates, np.memmap) and isinstance(mapped_lists.labels, np.memmap)
    rows = np.random.default_rng(2).permutation(100)[:40]
    assert mapped_lists.queries[rows].tolist() == read.queries[rows].tolist()
    for one, other in zip(mapped_lists.pad_lists(rows), read.pad_lists(rows), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.usefixtures("small_memory")
def test_what_a_killed_run_had_not_unpacked_is_unpacked_and_the_rest_is_kept(path, tmp_path):
    open_lists(path, tmp_path / "cache")
    kept, lost = (tmp_path / "cache" / "i2t-train" / f"{name}.npy" for name in ("candidates", "labels"))
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert open_lists(path, tmp_path / "cache").labels.tolist() == CandidateLists.read(path).labels.tolist()
    assert kept.stat().st_mtime_ns == before


def test_lists_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none.parquet: no such candidate lists"):
        open_lists(tmp_path / "none.parquet", tmp_path)
