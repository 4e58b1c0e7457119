"""Stages in this process, without Ray: one worker runs what the processes of a cluster would."""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from xmrank.runtime import launcher


class OneWorker:
    """Stands for Ray Train's trainer."""

    def __init__(self, loop: Callable[[dict[str, Any]], None], *, train_loop_config: dict[str, Any], **_: Any) -> None:
        self.fit = lambda: loop(train_loop_config)


@contextlib.contextmanager
def one_worker(*patches: Any) -> Iterator[None]:
    """Run what is launched in this process, with these patches beside."""
    room = SimpleNamespace(find_count=lambda: 1, count_lost_nodes=lambda: 0, resources={"CPU": 1.0})
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    with contextlib.ExitStack() as stack:
        for patch in (
            mock.patch.object(launcher, "LeanTrainer", OneWorker),
            mock.patch.object(launcher, "get_context", return_value=context),
            mock.patch.object(launcher, "get_device", return_value=torch.device("cpu")),
            mock.patch.object(launcher, "connect"),
            mock.patch.object(launcher, "WorkerRoom", return_value=room),
            *patches,
        ):
            stack.enter_context(patch)
        yield
