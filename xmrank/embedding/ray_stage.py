"""The embedding stage's Ray part: shards through a pool of encoder actors."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
import torch

from xmrank.cluster import connect, pool_size
from xmrank.embedding.encoder import Encoder, load_encoder
from xmrank.embedding.shards import Shard, encode_shard
from xmrank.errors import DataError, XmrankError


class ShardEncoder:
    """An actor of the pool: loads the model once, then encodes one shard a call."""

    def __init__(self, settings: dict[str, Any], work: Path) -> None:
        torch.set_num_threads(settings["threads"])
        self.settings, self.work = settings, work

    @cached_property
    def encoder(self) -> Encoder:
        """The model, on this worker's device."""
        return load_encoder(
            self.settings["model"],
            self.settings["pretrained"],
            init_seed=self.settings["init_seed"],
            precision=self.settings["precision"],
            device="cuda" if torch.cuda.is_available() else "cpu",
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode the shard in a row; returns how many items it held, how many were broken, and what failed.

        What the user can mend comes back as a value: Ray Data wraps exceptions, and loses on the way what it wrapped.
        """
        shard, settings = Shard(**row), self.settings
        try:
            report = encode_shard(
                shard, self.encoder, self.work, batch_size=settings["batch_size"], dtype=settings["dtype"]
            )
        except XmrankError as error:
            return {"items": 0, "broken": 0, "failure": str(error)}
        except OSError as error:
            return {"items": 0, "broken": 0, "failure": f"{error.filename or self.work}: {error.strerror or error}"}
        return {"items": report.items, "broken": len(report.broken), "failure": ""}


def quiet_console() -> None:
    """Keep Ray Data's messages to its log file: progress is ours, and failures come back as exceptions."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def encode_shards(shards: list[Shard], settings: dict[str, Any], work: Path, workers: int) -> Iterator[dict[str, Any]]:
    """Encode shards on the cluster; yields the items and broken items of each as it is finished, in any order.

    Raises:
        DataError: what failed on a worker and can be mended: a full disk, say.
    """
    connect()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    quiet_console()
    workers, cpus, gpus = pool_size(workers)
    workers = min(workers, len(shards))
    rows = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=len(shards))
    done = rows.map(
        ShardEncoder,
        fn_constructor_args=(settings, work),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for result in done.iter_rows():
        if result["failure"]:
            raise DataError(result["failure"])
        yield result
