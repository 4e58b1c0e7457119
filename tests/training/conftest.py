"""The training stage without Ray's start: its worker runs in the test's process."""

from types import SimpleNamespace

import pytest
import torch

from xmrank.training import ray_stage


@pytest.fixture
def in_process(monkeypatch):
    """Replaces Ray Train by one worker in this process."""

    class Trainer:
        def __init__(self, loop, *, train_loop_config, **settings):
            self.fit = lambda: loop(train_loop_config)

    worker = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray_stage, "TorchTrainer", Trainer)
    monkeypatch.setattr(ray_stage, "get_context", lambda: worker)
    monkeypatch.setattr(ray_stage, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(ray_stage, "connect", lambda: None)
    monkeypatch.setattr(ray_stage, "pool_size", lambda workers: (1, 1.0, 0))
