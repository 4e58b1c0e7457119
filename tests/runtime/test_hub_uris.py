"""hf:// as an input: stages read a repository of the hub as they read a directory, and never write there."""

import time

import numpy as np
import pytest
from hub_server import Repository

from xmrank import CandidateLists, EmbeddingStore, load_ranker, mine_lists
from xmrank.config.hub import PushConfig
from xmrank.hub.pushing import push
from xmrank.rankers import LinearParameters, build_ranker
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.object_stores import StorageError
from xmrank.runtime.paths import resolve
from xmrank.train.checkpoint import save_ranker


def test_a_store_is_read_from_the_hub(hub, tiny_store, home):
    store = tiny_store(home / "made")
    push(PushConfig(home / "made" / "embeddings", "me/store"))
    read = EmbeddingStore.open("hf://datasets/me/store")
    assert read.fingerprint == store.fingerprint
    np.testing.assert_array_equal(read.image, store.image)


def test_lists_are_read_from_the_hub(hub, tiny_store, home):
    lists = mine_lists(tiny_store(home / "made"), split="val", direction="t2i", random_candidates=5, hard_negatives=3)
    stage = StageDirectory.open(home / "lists", "mine", config={}, inputs={})
    lists.write(stage.directory / "t2i-validation.parquet")
    stage.finish(counts={})
    push(PushConfig(home / "lists", "me/lists"))
    read = CandidateLists.read("hf://datasets/me/lists/t2i-validation.parquet")
    np.testing.assert_array_equal(read.queries, lists.queries)


def test_a_ranker_of_a_revision_is_read_from_the_hub(hub, home):
    stage = StageDirectory.open(home / "rankers", "train", config={}, inputs={})
    ranker = build_ranker(LinearParameters(), dimensions=4)
    save_ranker(stage.directory / "trials" / "one", ranker, ranker.state_dict(), {"direction": "t2i"})
    stage.finish(counts={})
    push(PushConfig(home / "rankers", "me/demo"))
    repository = hub.repositories["models", "me/demo"]
    revision = repository.sha()
    repository.commits.append({})  # the newest commit has nothing
    assert load_ranker(f"hf://me/demo@{revision}/trials/one").name == "linear"


def test_a_changed_file_is_fetched_anew(hub):
    hub.repositories["datasets", "me/x"] = Repository(False, [{"a.txt": b"first"}])
    path = resolve("hf://datasets/me/x/a.txt")
    assert path.fetch().read_bytes() == b"first"
    hub.repositories["datasets", "me/x"].commits.append({"a.txt": b"second!"})
    path.store.invalidate_cache()
    assert path.fetch().read_bytes() == b"second!"


def test_folders_are_listed(hub):
    files = {"a/b.txt": b"1", "a/c/d.txt": b"22", "e.txt": b"333"}
    hub.repositories["models", "me/x"] = Repository(False, [files])
    root = resolve("hf://me/x")
    assert [str(path) for path in root.rglob("*.txt")] == [f"hf://me/x/{name}" for name in sorted(files)]
    assert root.is_dir() and (root / "e.txt").is_file() and not (root / "f.txt").exists()


def test_nothing_is_written_to_the_hub(hub):
    hub.repositories["datasets", "me/x"] = Repository(False, [{}])
    with pytest.raises(StorageError, match="hf:// is only read; write to a folder, and xmrank push it"):
        StageDirectory.open(resolve("hf://datasets/me/x/out"), "mine", config={}, inputs={})
    assert len(hub.repositories["datasets", "me/x"].commits) == 1


def test_a_repository_that_is_not_there_is_said_at_once(hub, home):
    started = time.monotonic()
    with pytest.raises(DataError, match="no finished output of the stage embed here"):
        EmbeddingStore.open("hf://datasets/me/nothing")
    assert time.monotonic() - started < 10


def test_a_hub_that_refuses_is_not_waited_for(hub, monkeypatch):
    hub.repositories["datasets", "me/x"] = Repository(False, [{"a.txt": b"first"}])
    monkeypatch.setattr(type(hub), "route", lambda self, request: refuse())
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"hf://datasets/me/x/a\.txt: HfHubHTTPError"):
        resolve("hf://datasets/me/x/a.txt").read_bytes()
    assert time.monotonic() - started < 10


def refuse():
    from hub_server import answer

    return answer({"error": "no"}, 403, message="no right to read")
