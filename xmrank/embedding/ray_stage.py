"""The embedding stage's Ray part: shards through a pool of encoder actors."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch

from xmrank.cluster import connect, pool_size
from xmrank.embedding.encoder import load_encoder
from xmrank.embedding.shards import Shard, encode_shard


class ShardEncoder:
    """An actor of the pool: loads the model once, then encodes one shard a call."""

    def __init__(self, settings: dict[str, Any], work: Path) -> None:
        torch.set_num_threads(settings["threads"])
        self.settings, self.work = settings, work
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = load_encoder(
            settings["model"],
            settings["pretrained"],
            init_seed=settings["init_seed"],
            precision=settings["precision"],
            device=device,
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode the shard in a row; returns how many items it held and how many were broken."""
        shard = Shard(**row)
        report = encode_shard(
            shard, self.encoder, self.work, batch_size=self.settings["batch_size"], dtype=self.settings["dtype"]
        )
        return {"items": report.items, "broken": len(report.broken)}


def quiet_console() -> None:
    """Keep Ray Data's messages to its log file: progress is ours, and failures come back as exceptions."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def encode_shards(shards: list[Shard], settings: dict[str, Any], work: Path, workers: int) -> Iterator[dict[str, Any]]:
    """Encode shards on the cluster; yields the items and broken items of each as it is finished, in any order."""
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
    yield from done.iter_rows()
