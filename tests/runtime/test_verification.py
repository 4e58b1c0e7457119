"""What a stage reads is what another stage wrote: hashed once, remembered, and damage is one line."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from changed_stages import flip_byte

from xmrank.runtime import verification
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_batches, read_parquet, sha256_file, write_table, write_text
from xmrank.runtime.verification import memory_path, read_outputs, verify_file, verify_tree


@pytest.fixture
def folder(tmp_path):
    """A finished stage of two files, old enough to be remembered."""
    folder = tmp_path / "lists"
    stage = StageDirectory.open(folder, "mine", config={}, inputs={})
    write_text(folder / "a.txt", "hello")
    write_text(folder / "sub" / "b.txt", "world")
    stage.finish(counts={})
    return folder


@pytest.fixture
def later(monkeypatch):
    """A clock that is a minute ahead: what was just written is old."""
    now = verification.time.time_ns
    monkeypatch.setattr(verification, "time", SimpleNamespace(time_ns=lambda: now() + 60 * 10**9))


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that were hashed."""
    names = []
    monkeypatch.setattr(verification, "sha256_file", lambda path: names.append(path.name) or sha256_file(path))
    return names


@pytest.mark.usefixtures("later")
def test_a_file_is_hashed_once(folder, hashed):
    for _ in range(3):
        read_outputs(folder, "mine")
    assert hashed == ["a.txt", "b.txt"]
    assert json.loads(memory_path(folder).read_text()).keys() == {"a.txt", "sub/b.txt"}


@pytest.mark.usefixtures("later")
def test_a_file_that_was_written_to_is_hashed_again(folder, hashed):
    read_outputs(folder, "mine")
    write_text(folder / "a.txt", "hello")
    read_outputs(folder, "mine")
    assert hashed == ["a.txt", "b.txt", "a.txt"]


@pytest.mark.usefixtures("later")
def test_a_change_is_found_though_size_and_time_are_set_back(folder):
    read_outputs(folder, "mine")
    before = (folder / "a.txt").stat()
    flip_byte(folder / "a.txt", 0)
    os.utime(folder / "a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"a\.txt: damaged"):
        read_outputs(folder, "mine")


def test_a_file_that_was_just_written_is_not_remembered(folder, hashed):
    for _ in range(2):
        write_text(folder / "a.txt", "hello")
        read_outputs(folder, "mine")
    assert hashed.count("a.txt") == 2
    assert not (memory_path(folder).exists() and "a.txt" in json.loads(memory_path(folder).read_text()))


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("text", ["not JSON", "[]", '{"a.txt": 3}', '{"a.txt": ["0", 5, 0, 0, 0]}'])
def test_a_damaged_memory_costs_a_hash_and_no_more(folder, hashed, text):
    write_text(memory_path(folder), text)
    read_outputs(folder, "mine")
    assert hashed == ["a.txt", "b.txt"]


@pytest.mark.usefixtures("later")
def test_without_a_folder_to_remember_in_everything_is_hashed(folder, hashed, monkeypatch):
    monkeypatch.setenv("XMRANK_CACHE", str(folder / "a.txt"))
    for _ in range(2):
        read_outputs(folder, "mine")
    assert hashed == ["a.txt", "b.txt"] * 2


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"hellp", "damaged: its contents are not those in manifest.json"),
        (b"hel", "damaged: holds 3 bytes, 5 in manifest.json"),
        (None, "is missing, though manifest.json names it"),
    ],
)
def test_damage_is_one_line_with_the_command_that_makes_the_file_anew(folder, content, fault):
    if content is None:
        (folder / "a.txt").unlink()
    else:
        (folder / "a.txt").write_bytes(content)
    with pytest.raises(DataError) as failure:
        read_outputs(folder, "mine")
    remedy = f"make it anew: xmrank mine --output {folder} and its other flags"
    assert str(failure.value) == f"{folder / 'a.txt'}: {fault}; {remedy}"


def test_the_remedy_of_a_search_names_the_folder_that_the_command_takes(tmp_path):
    assert (
        verification.describe_remedy(tmp_path / "search", "tune")
        == f"xmrank tune --output {tmp_path} and its other flags"
    )


def test_one_file_is_verified_by_the_manifest_beside_it(folder, tmp_path):
    verify_file(folder / "a.txt")
    write_text(folder / "more.txt", "no output")
    verify_file(folder / "more.txt")
    verify_file(tmp_path / "alone.txt")
    flip_byte(folder / "a.txt", 0)
    with pytest.raises(DataError, match=r"a\.txt: damaged"):
        verify_file(folder / "a.txt")


def test_the_command_says_of_every_stage_whether_it_is_whole(folder, tmp_path, capsys):
    other = StageDirectory.open(tmp_path / "rankers", "train", config={}, inputs={})
    write_text(other.directory / "a.txt", "half")
    assert verify_tree(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}: mine, 2 files, 10 bytes: ok",
        f"{tmp_path / 'rankers'}: not finished, nothing to verify",
    ]
    flip_byte(folder / "sub" / "b.txt", 0)
    assert not verify_tree(folder)
    line = f"{folder}: mine, 2 files, 10 bytes: sub/b.txt damaged: its contents are not those in manifest.json; make "
    assert capsys.readouterr().out.startswith(line)
    write_text(folder / "manifest.json", "{")
    assert not verify_tree(folder)
    assert capsys.readouterr().out == f"{folder / 'manifest.json'}: not the manifest of a stage\n"
    with pytest.raises(DataError, match="no directory of a stage here or below"):
        verify_tree(tmp_path / "nothing")


@pytest.mark.usefixtures("later")
def test_the_command_hashes_what_was_verified_before(folder, hashed):
    read_outputs(folder, "mine")
    verify_tree(folder)
    assert hashed == ["a.txt", "b.txt"] * 2


def test_every_flipped_bit_in_the_pages_of_a_table_is_found(tmp_path):
    path = tmp_path / "lists.parquet"
    values = np.random.default_rng(0).integers(0, 2**31, 20_000)
    write_table(path, pa.table({"candidates": values}))
    whole, generator = path.read_bytes(), np.random.default_rng(1)
    for _ in range(150):
        content = bytearray(whole)
        content[generator.integers(200, len(whole) - 1000)] ^= 1 << int(generator.integers(8))
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"lists\.parquet: damaged, not readable as parquet: ") as failure:
            read_parquet(path)
        assert "\n" not in str(failure.value)


@pytest.mark.parametrize("size", [0, 3, 100, -4])
def test_a_truncated_table_is_one_line(tmp_path, size):
    path = tmp_path / "lists.parquet"
    write_table(path, pa.table({"query": [1, 2, 3]}))
    path.write_bytes(path.read_bytes()[:size])
    for read in (read_parquet, lambda path: list(read_batches(path, 10))):
        with pytest.raises(DataError, match=r"lists\.parquet: damaged, not readable as parquet: "):
            read(path)
    with pytest.raises(DataError, match=r"none\.parquet: no such file"):
        read_parquet(tmp_path / "none.parquet")
