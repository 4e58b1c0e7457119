"""Files in an object store, on a real S3 server: paths, copies in the cache, whole writes, outages."""

import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from aiohttp import ClientResponseError

from xmrank.runtime import file_cache, object_stores
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import atomic_path, read_parquet, sha256_file, write_array, write_json, write_table
from xmrank.runtime.object_stores import StorageError, attempt, find_store, one_attempt
from xmrank.runtime.paths import resolve
from xmrank.runtime.remote_path import RemotePath
from xmrank.runtime.storage import (
    append_line,
    fetch_all,
    list_files,
    list_folders,
    local_copy,
    local_tree,
    read_bytes_from,
    read_states,
    remove_tree,
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, in which nothing is young enough to be kept from removal."""
    monkeypatch.setenv("XMRANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_cache, "IN_USE_S", -1.0)
    monkeypatch.setattr(file_cache.Added, "bytes", None)
    return tmp_path / "cache"


@pytest.fixture
def run(bucket, cache):
    return resolve(f"{bucket}/runs/one")


@pytest.fixture
def hurried(monkeypatch):
    """Pauses between attempts are short."""
    monkeypatch.setattr(object_stores, "FIRST_PAUSE_S", 0.02)


def copies(cache):
    return sorted(path.name for path in (cache / "files").glob("*/*/*"))


# Paths.


def test_a_path_keeps_its_store_through_everything_that_is_done_with_it(run):
    below = run / "trials" / "a.json"
    assert str(below) == f"{run}/trials/a.json" and str(below).startswith("s3://")
    assert below.parent.parent == run and below.name == "a.json" and below.suffix == ".json"
    assert str(below.with_name("b.npy")).endswith("/runs/one/trials/b.npy")
    assert str(below.relative_to(run)) == "trials/a.json" and below.is_relative_to(run)
    again = pickle.loads(pickle.dumps(below))  # noqa: S301
    assert again == below and isinstance(again, RemotePath)
    assert isinstance(below, Path) and below.is_absolute() and below.resolve() == below


def test_a_store_has_files_and_the_folders_that_they_are_in(run):
    assert not run.exists() and list(run.iterdir()) == list_files(run) == []
    run.mkdir(parents=True)
    assert not run.exists()
    (run / "a.txt").write_text("è")
    (run / "sub" / "b.txt").write_bytes(b"12")
    (run / "sub" / "deep" / "c.json").write_text("{}")
    assert run.is_dir() and not run.is_file() and (run / "a.txt").is_file() and not (run / "a").exists()
    assert [path.name for path in run.iterdir()] == ["a.txt", "sub"]
    assert [str(path.relative_to(run)) for path in list_files(run)] == ["a.txt", "sub/b.txt", "sub/deep/c.json"]
    assert [path.name for path in run.glob("*.txt")] == ["a.txt"]
    assert [path.name for path in run.glob("*/*.txt")] == ["b.txt"]
    assert [path.name for path in run.rglob("*.json")] == ["c.json"]
    assert (run / "a.txt").read_text() == "è" and (run / "sub" / "b.txt").stat().st_size == 2
    folders = [(str(folder), files) for folder, files in list_folders(run, without=("deep",))]
    assert folders == [(str(run), {"a.txt"}), (f"{run}/sub", {"b.txt"})]


def test_files_are_removed_and_renamed(run):
    for name in ("a", "b/c", "b/d/e"):
        (run / name).write_text(name)
    (run / "a").rename(run / "moved" / "a")
    assert (run / "moved" / "a").read_text() == "a" and not (run / "a").exists()
    remove_tree(run / "b")
    remove_tree(run / "b")
    assert [path.name for path in list_files(run)] == ["a"] and not (run / "b").exists()
    with pytest.raises(FileNotFoundError):
        (run / "b").unlink()
    (run / "b").unlink(missing_ok=True)


def test_what_is_appended_is_read_from_a_byte_on(run, tmp_path):
    for journal in (run / "journal.jsonl", tmp_path / "journal.jsonl"):
        append_line(journal, b"one")
        append_line(journal, b"two")
        assert read_bytes_from(journal, 4) == b"two\n" and read_bytes_from(journal, 0) == b"one\ntwo\n"


def test_a_file_is_created_once(run):
    assert run.create(b"first") and not run.create(b"second")
    assert run.read_bytes() == b"first"
    # Also where both have looked before either has written: the store decides.
    absent, lock = lambda: False, run.with_name("lock")
    one, other = RemotePath(str(lock)), RemotePath(str(lock))
    one.exists = other.exists = absent
    assert [one.create(b"one"), other.create(b"other")] == [True, False] and lock.read_bytes() == b"one"


def test_a_library_that_wants_a_file_is_told_so(run):
    write_array(run / "a.npy", np.arange(3))
    with pytest.raises(TypeError, match="local_copy"):
        os.fspath(run / "a.npy")
    with pytest.raises(OSError, match="written whole"):
        (run / "a.npy").open("wb")


# Writes.


def test_a_write_that_fails_leaves_what_was_there(run, cache):
    write_json(run / "a.json", {"a": 1})
    with pytest.raises(ZeroDivisionError):
        write_half(run / "a.json")
    assert (run / "a.json").read_text() == '{\n "a": 1\n}\n'
    assert list_files(run) == [run / "a.json"] and list((cache / "uploads").iterdir()) == []


def write_half(path):
    with atomic_path(path) as file:
        file.write_text("half")
        raise ZeroDivisionError


def test_a_reader_sees_a_whole_file_whenever_it_looks(run):
    write_array(run / "a.npy", np.full(200_000, 0))
    seen, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            array = np.load(local_copy(run / "a.npy"), mmap_mode="r")
            seen.append((len(array), len(set(array[::1000].tolist()))))

    reader = threading.Thread(target=look)
    reader.start()
    for value in range(1, 8):
        write_array(run / "a.npy", np.full(200_000, value))
    stop.set()
    reader.join()
    assert set(seen) == {(200_000, 1)}


# The cache.


def test_a_file_is_fetched_once_and_again_when_it_has_changed(run, object_store, cache):
    path = run / "a.npy"
    write_array(path, np.arange(4))
    file_cache.forget_copies(str(path))
    object_store.requests.clear()
    first, second = local_copy(path), local_copy(path)
    assert first == second and first.name == "a.npy" and np.load(first, mmap_mode="r").tolist() == [0, 1, 2, 3]
    assert sum(request.startswith("GET") for request in object_store.requests) == 1
    path.write_bytes(b"other")  # by another machine, for all that the cache knows
    assert local_copy(path).read_bytes() == b"other" and copies(cache) == ["a.npy"]
    assert local_copy(cache) == cache


def test_what_this_machine_wrote_is_not_fetched(run, object_store):
    write_array(run / "a.npy", np.arange(4))
    object_store.requests.clear()
    assert sha256_file(run / "a.npy") and np.load(local_copy(run / "a.npy"))[3] == 3
    assert not any(request.startswith("GET") for request in object_store.requests)


def test_many_files_are_fetched_at_once(run, object_store, cache):
    paths = [run / name for name in "abcdefgh"]
    for path in paths:
        path.write_text(path.name)
    object_store.delay, object_store.most = 0.3, 0
    fetch_all(paths)
    assert object_store.most > 1 and copies(cache) == list("abcdefgh")
    fetch_all([*paths, cache], afresh=True)
    assert sum(request.startswith("GET") for request in object_store.requests) == 16


def test_a_folder_is_there_as_a_folder(run):
    for name in ("open_clip_config.json", "vocabulary/merges.txt"):
        (run / name).write_text(name)
    folder = local_tree(run)
    assert folder.name == run.name and (folder / "vocabulary" / "merges.txt").read_text() == "vocabulary/merges.txt"
    (run / "open_clip_config.json").write_text("changed")
    assert (local_tree(run) / "open_clip_config.json").read_text() == "changed"
    assert local_tree(run / "open_clip_config.json").read_text() == "changed" and local_tree(folder) == folder


def test_processes_of_one_machine_fetch_a_file_once(run, object_store):
    run.write_bytes(b"x" * 1000)
    object_store.delay = 0.2
    code = "import sys; from xmrank.runtime.paths import resolve; print(resolve(sys.argv[1]).fetch().stat().st_ino)"
    command = [sys.executable, "-c", code, str(run)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0].strip() for process in processes)
    # The same file on this disk: a second fetch would have replaced it.
    assert first == second == str(local_copy(run).stat().st_ino)


def test_over_the_limit_the_least_recently_used_copies_go(run, cache, monkeypatch):
    monkeypatch.setenv("XMRANK_CACHE_GB", "3e-6")
    for number, name in enumerate("abc"):
        (run / name).write_bytes(bytes(1000))
        os.utime(local_copy(run / name), (number, number))
    local_copy(run / "a")  # used again
    (run / "d").write_bytes(bytes(1000))
    local_copy(run / "d")
    assert copies(cache) == ["a", "c", "d"]


def test_a_copy_that_is_in_use_stays(run, cache, monkeypatch):
    monkeypatch.setattr(file_cache, "IN_USE_S", 60.0)
    monkeypatch.setenv("XMRANK_CACHE_GB", "1e-6")
    for name in "ab":
        (run / name).write_bytes(bytes(1000))
        local_copy(run / name)
    assert copies(cache) == ["a", "b"]
    # A map outlives the removal of its file.
    write_array(run / "array.npy", np.arange(1000))
    array = np.load(local_copy(run / "array.npy"), mmap_mode="r")
    file_cache.forget_copies(str(run / "array.npy"))
    assert array.sum() == 499_500 and copies(cache) == ["a", "b"]


def test_a_copy_that_was_cut_short_is_fetched_again(run):
    run.write_bytes(b"0123456789")
    local_copy(run).write_bytes(b"0123")
    assert local_copy(run).read_bytes() == b"0123456789"


@pytest.mark.parametrize(("variable", "value"), [("XMRANK_CACHE_GB", "much"), ("XMRANK_STORAGE_TIMEOUT", "-1")])
def test_a_wrong_setting_is_named(run, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{variable} {value}: expected a number of "):
        write_array(run / "a.npy", np.arange(3))


def test_states_change_with_contents_of_the_same_size(run):
    (run / "a").write_text("1")
    before = read_states(run, ["a", "b"])
    (run / "a").write_text("2")
    after = read_states(run, ["a", "b"])
    assert before.keys() == after.keys() == {"a"} and before != after


# A store that is away.


def test_a_store_that_is_away_is_waited_for(run, object_store, monkeypatch, capsys):
    monkeypatch.setenv("XMRANK_STORAGE_TIMEOUT", "60")
    write_json(run / "a.json", 1)
    object_store.stop()
    starter = threading.Timer(1.5, object_store.start)
    starter.start()
    assert (run / "a.json").read_text() == "1\n" and not starter.is_alive()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"storage: {run}/a.json: EndpointConnectionError")
    assert said[0].endswith("it is tried again for up to 60 s")


def test_a_store_that_stays_away_is_one_line(run, object_store, monkeypatch, hurried, capsys):
    monkeypatch.setenv("XMRANK_STORAGE_TIMEOUT", "0.5")
    object_store.stop()
    start = time.monotonic()
    with pytest.raises(StorageError, match=f"^{run}: no answer for 0.5 s: EndpointConnectionError: [^\n]*$"):
        run.exists()
    assert time.monotonic() - start < 5
    with one_attempt(), pytest.raises(StorageError, match="no answer for 0 s"):
        run.exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_answers_of_an_overloaded_store_are_repeated(run, object_store, hurried):
    write_table_of_ids(run / "a.parquet")
    file_cache.forget_copies(str(run / "a.parquet"))
    object_store.failures = 8
    assert read_parquet(run / "a.parquet").num_rows == 3 and object_store.failures == 0


def write_table_of_ids(path):
    import pyarrow as pa

    write_table(path, pa.table({"id": ["a", "b", "c"]}))


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(28, "No space left on device", "/disk")])
def test_errors_that_are_not_the_stores_are_left_alone(error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        attempt(fail, "s3://bucket")
    assert caught.value is error


@pytest.mark.parametrize(("status", "repeated"), [(403, False), (404, False), (429, True), (503, True)])
def test_a_web_servers_refusal_is_not_repeated(status, repeated):
    assert object_stores.is_outage(ClientResponseError(None, (), status=status)) is repeated


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket-here/a.json: The specified bucket does not exist$"):
        write_json(resolve("s3://no-such-bucket-here/a.json"), 1)
    assert not resolve("s3://no-such-bucket-here/a.json").exists()


# Which stores there are.


def test_a_store_without_its_package_names_the_extra(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.filesystem", missing)
    find_store.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"^s3://: the package that .* is not installed: install xmrank\[s3\]$"):
            resolve("s3://bucket/run")
    finally:
        find_store.cache_clear()


def test_an_unknown_scheme_is_one_line():
    with pytest.raises(ConfigError, match=r"^nowhere://: Protocol not known: nowhere$"):
        resolve("nowhere://bucket/run")


def test_credentials_in_a_uri_are_refused_and_not_shown():
    with pytest.raises(ConfigError, match=r"^s3://\*\*\*@bucket/run: a URI of files must not hold cred") as caught:
        resolve("s3://key:hidden@bucket/run")
    assert "hidden" not in str(caught.value)
    with pytest.raises(ConfigError, match="must not hold credentials"):
        resolve(Path("https://host/run?sig=SECRET"))


def test_other_stores_work_alike(cache):
    run = resolve("memory://bucket/run")
    write_array(run / "a.npy", np.arange(3))
    write_json(run / "sub" / "b.json", [1])
    assert np.load(local_copy(run / "a.npy")).tolist() == [0, 1, 2]
    assert [str(path.relative_to(run)) for path in list_files(run)] == ["a.npy", "sub/b.json"]
    assert not (run / "a.npy").create(b"") and (run / "new").create(b"")
    remove_tree(run)
    assert not run.exists()
