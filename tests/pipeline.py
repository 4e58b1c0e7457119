"""One small run, mined, trained and tracked, for all tests that only read it or do a part of it again."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient
from plain import plain_ranker, plain_training

from xmrank.config import MineConfig, RegisterConfig, TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.stage import mine
from xmrank.register import stage as registry
from xmrank.register.alias_guard import FirstStageGain
from xmrank.runtime import launcher
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import HOME_VARIABLE
from xmrank.train.stage import train

TRAINING = plain_training(
    losses=("listnet", "lambdarank"),
    seeds=(0, 1),
    ranker=plain_ranker(width=8, layers=1, heads=2, feed_forward=8, dropout=0.1),
    epochs=3,
    batch_size=16,
    workers=2,
)
"""Eight rankers: two losses, two directions, two seeds."""


@dataclass(frozen=True)
class Run:
    """A trained run and how it was made.

    Attributes:
        home: what XMRANK_HOME was; the tracking file is in it.
        store: the embeddings.
        config: of the training.
        manifest: of the training.
    """

    home: Path
    store: EmbeddingStore
    config: TrainConfig
    manifest: Manifest


def mine_small(embeddings: Path, output: Path, **changes: object) -> MineConfig:
    """Lists of seven items; returns how they were mined."""
    config = MineConfig(embeddings=embeddings, output=output, random_candidates=12, hard_negatives=6)
    config = replace(config, **changes)
    mine(config)
    return config


@pytest.fixture(scope="session")
def empty_tracking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking file without runs: making one takes MLflow seconds."""
    path = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def track_at(monkeypatch: pytest.MonkeyPatch, empty_tracking: Path) -> Callable[[Path], None]:
    """Makes a folder the home of this test, with a tracking file, whatever server the caller's environment names."""
    return lambda home: make_home(monkeypatch, home, empty_tracking)


def make_home(monkeypatch: pytest.MonkeyPatch, home: Path, empty_tracking: Path) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(home))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    if not (home / "mlflow.db").exists():
        shutil.copy(empty_tracking, home)


@pytest.fixture(scope="session")
def trained(
    ray_cluster: None,
    tiny_store: Callable[..., EmbeddingStore],
    tmp_path_factory: pytest.TempPathFactory,
    empty_tracking: Path,
) -> Run:
    """Eight rankers trained by two workers on 300 lists a direction; for reading only."""
    home = tmp_path_factory.mktemp("trained")
    store = tiny_store(home / "store", splits={"train": 300, "val": 20, "test": 20})
    lists = mine_small(store.directory, home / "lists")
    config = replace(TRAINING, embeddings=store.directory, lists=lists.output, output=home / "rankers")
    with pytest.MonkeyPatch.context() as environment:
        make_home(environment, home, empty_tracking)
        return Run(home, store, config, train(config))


def kill_train_workers(count: int) -> list[int]:
    """Kill this many of the processes that Ray Train has started below this one; returns their ids."""
    killed: list[int] = []
    for process in psutil.Process().children(recursive=True):
        if len(killed) < count and any("RayTrainWorker" in word for word in process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)
    return killed


@pytest.fixture
def in_process(monkeypatch):
    """Replaces Ray Train by one worker in this process."""

    class Trainer:
        def __init__(self, loop, *, train_loop_config, **settings):
            self.fit = lambda: loop(train_loop_config)

    worker = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(launcher, "LeanTrainer", Trainer)
    monkeypatch.setattr(launcher, "get_context", lambda: worker)
    monkeypatch.setattr(launcher, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(launcher, "connect", lambda: None)
    room = SimpleNamespace(find_count=lambda: 1, count_lost_nodes=lambda: 0, resources={"CPU": 1.0})
    monkeypatch.setattr(launcher, "WorkerRoom", lambda *_: room)


ABOVE = FirstStageGain(0.4, 0.5, 0.01)


@pytest.fixture
def rankers(trained, track_at):
    """The trained run's rankers, at home."""
    track_at(trained.home)
    return trained.config.output


@pytest.fixture
def configure(rankers, trained, monkeypatch):
    """A configuration for a name; the evaluation says the given gain."""

    def configured(name, gain=ABOVE, **changes):
        monkeypatch.setattr(registry, "measure_gain", lambda *arguments: gain)
        return RegisterConfig(rankers, name, trained.config.embeddings, **changes)

    return configured
