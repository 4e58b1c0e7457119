"""Lists mined in the calling process equal those that the stage writes."""

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from xmrank.config import DIRECTIONS, MineConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.in_memory import mine_lists
from xmrank.mine.list_paths import lists_path
from xmrank.mine.stage import mine
from xmrank.runtime.errors import ConfigError, DataError

SETTINGS = {"random_candidates": 12, "hard_negatives": 5, "random_negatives": 4}
COLUMNS = [field.name for field in fields(CandidateLists)]


@pytest.fixture(scope="module")
def store(tiny_store):
    """60, 20 and 20 images of one to four captions in random order."""
    counts = np.random.default_rng(0).integers(1, 5, 100).tolist()
    return tiny_store(captions=counts, interleaved=True)


def copy_to_memory(store):
    """The same embeddings, ids and splits, without a directory."""
    return EmbeddingStore.from_arrays(
        np.array(store.image),
        np.array(store.text),
        caption_image=store.image_of_caption,
        splits=store.images["split"].to_pylist(),
    )


def assert_equal_lists(one, other):
    for name in COLUMNS:
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype
        assert np.array_equal(left, right), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positives": "all", "captions": "all", "seed": 3},
        {"strategy": "top-k", "positive_margin": 0.05},
        {"strategy": "mixed", "duplicate_cosine": 0.9, "relevance": "captions"},
        {"strategy": "top-k", "positives": "retrieved", "index": "hnsw"},
    ],
    ids=["paper", "all", "top-k", "mixed", "retrieved"],
)
def test_lists_in_memory_equal_the_files_of_the_stage(store, tmp_path, changes):
    settings = SETTINGS | changes
    mine(MineConfig(embeddings=store.directory, output=tmp_path, **settings))
    in_memory = copy_to_memory(store)
    for direction in DIRECTIONS:
        for role, split in (("train", "train"), ("validation", "val"), ("test", "test")):
            written = CandidateLists.read(lists_path(tmp_path, direction, role))
            assert_equal_lists(mine_lists(in_memory, direction=direction, split=split, **settings), written)
            assert_equal_lists(mine_lists(store, direction=direction, role=role, **settings), written)


def test_lists_of_several_chunks_equal_the_files_of_the_stage(tiny_store, tmp_path):
    store = tiny_store(splits={"train": 1100, "val": 60, "test": 60}, captions=2, dimensions=8)
    mine(MineConfig(embeddings=store.directory, output=tmp_path, **SETTINGS))
    lists = mine_lists(copy_to_memory(store), direction="i2t", **SETTINGS)
    assert_equal_lists(lists, CandidateLists.read(lists_path(tmp_path, "i2t", "train")))


def test_without_a_test_split_val_has_the_role_test(tiny_store, tmp_path):
    store = tiny_store(splits={"train": 150, "val": 30})
    mine(MineConfig(embeddings=store.directory, output=tmp_path, **SETTINGS))
    for role, where in (
        ("train", {"role": "train"}),
        ("validation", {"role": "validation"}),
        ("test", {"split": "val"}),
    ):
        lists = mine_lists(store, direction="t2i", **where, **SETTINGS)
        assert_equal_lists(lists, CandidateLists.read(lists_path(tmp_path, "t2i", role)))


def test_the_defaults_are_those_of_the_stage(tmp_path, store):
    config = MineConfig(embeddings=store.directory, output=tmp_path / "lists")
    with pytest.raises(ConfigError) as by_stage:
        mine(config)
    with pytest.raises(ConfigError) as in_memory:
        mine_lists(store, direction="i2t", role="train")
    # Both need 200 random candidates, which these galleries do not have.
    assert str(by_stage.value) == str(in_memory.value)


@pytest.mark.parametrize("name", ["embeddings", "output", "workers", "overwrite", "hard_negative"])
def test_what_is_no_setting_of_lists_is_refused(store, name):
    with pytest.raises(ConfigError, match=f"mine_lists: no setting {name}; expected some of captions, "):
        mine_lists(store, direction="i2t", **{name: 1})


def test_what_cannot_be_mined_is_refused(store):
    with pytest.raises(ConfigError, match="split nowhere: the store has no such split; it has: test, train, val"):
        mine_lists(store, direction="i2t", split="nowhere")
    with pytest.raises(ConfigError, match="--random-candidates 200: the t2i gallery of val has only 19 items"):
        mine_lists(store, direction="t2i", split="val")
    with pytest.raises(DataError, match="the embeddings: its images have no labels"):
        mine_lists(copy_to_memory(store), direction="i2t", relevance="labels", **SETTINGS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": "image"}, "direction image: expected one of i2t, t2i"),
        ({"role": "val"}, "role val: expected one of train, validation, test"),
        ({"positives": "found"}, "positives found: expected one of one, all, retrieved"),
        ({"strategy": "hard"}, "strategy hard: expected one of random-hard, top-k, mixed"),
    ],
)
def test_a_name_that_is_not_known_is_refused(store, settings, message):
    with pytest.raises(ConfigError) as caught:
        mine_lists(store, **{"direction": "i2t", **settings})
    assert str(caught.value) == message


def imported_modules(code):
    """The top-level names of all modules that a Python process has imported after running the code."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from xmrank.mine.candidate_lists import CandidateLists", {"ray", "faiss", "torch", "mlflow"}),
        ("from xmrank.mine.list_paths import lists_path, read_role_images", {"ray", "faiss", "torch", "mlflow"}),
        ("from xmrank.embed.store import EmbeddingStore", {"ray", "faiss", "torch", "mlflow"}),
        ("from xmrank.mine.in_memory import mine_lists", {"ray", "faiss", "torch", "mlflow"}),
        ("from xmrank.mine.stage import mine", {"ray", "faiss", "torch", "mlflow"}),
    ],
)
def test_imports_are_cheap(code, absent):
    assert not imported_modules(code) & absent


def test_mining_in_memory_does_without_ray(tmp_path):
    code = (
        "import numpy as np\n"
        "from xmrank.embed.store import EmbeddingStore\n"
        "from xmrank.mine.in_memory import mine_lists\n"
        "store = EmbeddingStore.from_arrays(np.eye(9) + 0.1, np.eye(9) + 0.2)\n"
        "assert len(mine_lists(store, direction='i2t', random_candidates=5, hard_negatives=3)) == 9\n"
    )
    modules = imported_modules(code)
    assert "faiss" in modules
    assert not modules & {"ray", "torch", "mlflow"}
