"""What the tests of all rooms share: a home, one Ray cluster a process, small embedding stores."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
from hypothesis import settings

from xmrank.datasets.reader_settings import ArraySettings
from xmrank.embed.importing import import_embeddings
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.cluster import connect
from xmrank.runtime.file_cache import CACHE_VARIABLE
from xmrank.runtime.paths import HOME_VARIABLE

settings.register_profile("xmrank", deadline=None)  # machines that are shared have slow moments
settings.load_profile("xmrank")

pytest_plugins = ["pipeline", "token_galleries", "object_store", "hub_server"]

SPLITS = {"train": 60, "val": 20, "test": 20}


@pytest.hookimpl(wrapper=True, tryfirst=True)  # a wrapper: before xdist looks at the groups, and after it
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """With several test processes, one runs all tests of the shared cluster, and one those with clusters of their own.

    A cluster takes 15 s to start, and two at once share two cores.
    """
    grouped = []
    for item in items:
        if item.get_closest_marker("own_ray"):
            group = "own_ray"
        elif item.get_closest_marker("ray") or "ray_cluster" in getattr(item, "fixturenames", ()):
            group = "ray"
        else:
            continue
        item.add_marker(pytest.mark.xdist_group(group))
        grouped.append(item)
    result = yield
    # Without the groups, every process would start clusters, and nothing but the clock would say so.
    if hasattr(config, "workerinput") and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError("pytest-xdist takes no notice of its groups; expected the versions of constraints.txt")
    return result


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the tests verify is not remembered among the user's own files."""
    os.environ[CACHE_VARIABLE] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own that relative paths lead to. Ray's workers keep the environment they started in."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of this machine, started once a process."""
    environment = pytest.MonkeyPatch()
    environment.delenv("RAY_ADDRESS", raising=False)
    connect()
    yield
    ray.shutdown()
    environment.undo()


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EmbeddingStore]:
    """Makes small imported stores; see ``make_store``."""

    def make(directory: Path | None = None, **parameters: object) -> EmbeddingStore:
        return make_store(directory or tmp_path_factory.mktemp("store"), **parameters)

    return make


def make_store(
    directory: Path,
    *,
    splits: Mapping[str, int] = SPLITS,
    captions: int | Sequence[int] = 5,
    dimensions: int = 16,
    signal: float = 1.0,
    interleaved: bool = False,
    dtype: str = "float32",
    seed: int = 0,
) -> EmbeddingStore:
    """An imported store of random unit embeddings; the images of the splits are mixed.

    Args:
        directory: holds the imported files and, in ``embeddings``, the store.
        splits: images of each split.
        captions: captions of every image, or of each.
        dimensions: length of an embedding.
        signal: how much of its image a caption's embedding holds, beside noise of length 1; 0: nothing.
        interleaved: captions in random order instead of image by image.
        dtype: float16 or float32.
        seed: of everything drawn.
    """
    generator = np.random.default_rng(seed)
    names = generator.permutation([name for name, count in splits.items() for _ in range(count)]).tolist()
    counts = [captions] * len(names) if isinstance(captions, int) else list(captions)
    owner = np.repeat(np.arange(len(names)), counts)
    if interleaved:
        owner = generator.permutation(owner)
    image = unit(generator.normal(size=(len(names), dimensions)))
    text = unit(signal * image[owner] + unit(generator.normal(size=(len(owner), dimensions))))
    ids = {
        "image_ids": [f"image{i}" for i in range(len(names))],
        "caption_ids": [f"caption{i}" for i in range(len(owner))],
        "split": names,
        "caption_image": owner.tolist(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "image.npy", image.astype(dtype))
    np.save(directory / "text.npy", text.astype(dtype))
    (directory / "ids.json").write_text(json.dumps(ids))
    import_embeddings(
        ArraySettings(
            import_images=directory / "image.npy",
            import_texts=directory / "text.npy",
            import_ids=directory / "ids.json",
        ),
        directory / "embeddings",
    )
    return EmbeddingStore.open(directory / "embeddings")


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows at length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
