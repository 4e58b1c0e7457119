"""The embedding stage's Ray part: shards through a pool of encoder actors, fed by readers where there are GPUs."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
import torch

from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.embed.preparing import Preparer
from xmrank.embed.shards import PreparedShard, Shard, encode_shard, read_report
from xmrank.runtime.cluster import connect, pool_size
from xmrank.runtime.errors import DataError, XmrankError

CPU_BATCH = 64
"""Items at once on a CPU, where more are no faster."""
MAX_BLOCKS = 10_000
"""Blocks of a pipeline: where there are more shards, each holds several."""


@dataclass(frozen=True)
class WorkerPools:
    """How the work is laid on the cluster.

    Attributes:
        encoders: actors at the start.
        most: actors when nodes have joined; None: as many as fit.
        cpus, gpus: of each.
        readers: actors that read, decode and resize for the encoders; 0: each encoder does so itself.
    """

    encoders: int
    most: int | None
    cpus: float
    gpus: int
    readers: int = 0


def planned_pools(requested: int, shards: int) -> WorkerPools:
    """The pools for the cluster as it is now.

    Readers of their own pay where a GPU would wait for them. Where the encoders run on the same cores, they would only
    send each other pixels: one process that does both is faster, however many cores there are.
    """
    workers, cpus, gpus = pool_size(requested)
    workers = min(workers, shards)
    most = requested or None
    if not gpus:
        return WorkerPools(workers, most, cpus, gpus)
    share = min(cpus, 0.5)  # an encoder that is fed only starts kernels
    spare = int(ray.cluster_resources().get("CPU", 1.0) - workers * share)
    return WorkerPools(workers, most, share if spare else cpus, gpus, min(spare, shards))


class ShardReader:
    """An actor of the readers' pool: prepares one shard a call, all its batches at once."""

    def __init__(self, preparer: Preparer, work: Path) -> None:
        torch.set_num_threads(1)
        self.preparer, self.work = preparer, work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with the prepared shard in it, or with what failed."""
        return row | outcome(lambda: {"prepared": self.prepare(Shard(**row))}, self.work)

    def prepare(self, shard: Shard) -> PreparedShard:
        """The prepared shard; nothing of it when it is done."""
        if report := read_report(shard, self.work):
            return PreparedShard(report, [])
        prepared = self.preparer.prepare(shard, self.work)
        return replace(prepared, batches=list(prepared.batches))


class ShardEncoder:
    """An actor of the encoders' pool: loads the model once, then encodes one shard a call."""

    def __init__(self, settings: dict[str, Any], preparer: Preparer, work: Path) -> None:
        torch.set_num_threads(settings["threads"])
        self.settings, self.preparer, self.work = settings, preparer, work

    @cached_property
    def encoder(self) -> Encoder:
        """The model, on this worker's device."""
        return encoder_of(self.settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode the shard in a row; returns how many items it held, how many were broken, and what failed."""
        if row.get("failure"):
            return {"items": 0, "broken": 0, "failure": row["failure"]}
        shard = Shard(**{name: row[name] for name in Shard.__dataclass_fields__})
        return {"items": 0, "broken": 0} | outcome(lambda: self.encode(shard, row.get("prepared")), self.work)

    def encode(self, shard: Shard, prepared: PreparedShard | None) -> dict[str, Any]:
        """Encode a shard, prepared by a reader or here.

        A shard that is done stays as it is: after a lost worker, Ray repeats the block it was working on.
        """
        report = read_report(shard, self.work)
        if report is None:
            prepared = prepared or self.preparer.prepare(shard, self.work)
            known = self.preparer.known.store if self.preparer.known else None
            dtype = self.settings["dtype"]
            report = encode_shard(shard, prepared, self.encoder, self.work, dtype=dtype, known=known)
        return {"items": report.items, "broken": len(report.broken)}


def outcome(step: Callable[[], dict[str, Any]], work: Path) -> dict[str, Any]:
    """What a step returns, and what failed.

    What the user can mend comes back as a value: Ray Data wraps exceptions, and loses on the way what it wrapped.
    """
    try:
        return step() | {"failure": ""}
    except XmrankError as error:
        return {"failure": str(error)}
    except torch.OutOfMemoryError:
        return {"failure": "the GPU's memory does not hold a batch: give a smaller --batch-size and --overwrite"}
    except OSError as error:
        return {"failure": f"{error.filename or work}: {error.strerror or error}"}


def encoder_of(settings: dict[str, Any]) -> Encoder:
    """The model of the settings, on this process's device."""
    encoder = load_encoder(
        settings["model"],
        settings["pretrained"],
        init_seed=settings["init_seed"],
        precision=settings["precision"],
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    return encoder.compiled() if settings["compile"] else encoder


def choose_batch_size(settings: dict[str, Any], preparer: Preparer, largest: int) -> int:
    """Items to encode at once: on GPUs as many as fit in memory, a whole shard at most; on CPUs ``CPU_BATCH``.

    Raises:
        DataError: not even one fits.
    """
    connect()
    _, cpus, gpus = pool_size(1)
    if not gpus:
        return min(CPU_BATCH, largest)
    size = int(ray.get(ray.remote(num_cpus=cpus, num_gpus=1)(fitting_batch).remote(settings, preparer, largest)))
    if not size:
        raise DataError(f"{settings['model']}: the GPU's memory does not hold it")
    return size


def fitting_batch(settings: dict[str, Any], preparer: Preparer, largest: int) -> int:
    """The largest of ``largest``, its half, its quarter, … that the encoder takes here; 0 when it takes none."""
    encoder = encoder_of(settings | {"compile": False})
    size = largest
    while size and not fits(encoder, preparer, size):
        size //= 2
    return size


def fits(encoder: Encoder, preparer: Preparer, size: int) -> bool:
    """Whether the device holds so many images, and so many captions, at once."""
    from PIL import Image

    picture = preparer.pixels.prepared(Image.new("RGB", (64, 64)))
    try:
        encoder.encode_images(picture[None].expand(size, *picture.shape))
        encoder.encode_tokens(preparer.tokenizer(["a"]).expand(size, -1))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def quiet_console() -> None:
    """Keep Ray Data's messages to its log file: progress is ours, and failures come back as exceptions."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def encode_shards(
    shards: list[Shard], settings: dict[str, Any], preparer: Preparer, work: Path, workers: int
) -> Iterator[dict[str, Any]]:
    """Encode shards on the cluster; yields the items and broken items of each as it is finished, in any order.

    The pools shrink and grow with the cluster: a node that leaves costs the shards its workers had not finished.

    Raises:
        DataError: what failed on a worker and can be mended: a full disk, say.
    """
    connect()
    quiet_console()
    pools = planned_pools(workers, len(shards))
    blocks = min(len(shards), MAX_BLOCKS)
    rows = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=blocks)
    if pools.readers:
        rows = rows.map(
            ShardReader, fn_constructor_args=(preparer, work), compute=elastic(pools.readers, None), num_cpus=1
        )
    done = rows.map(
        ShardEncoder,
        fn_constructor_args=(settings, preparer, work),
        compute=elastic(pools.encoders, pools.most),
        num_cpus=pools.cpus,
        num_gpus=pools.gpus,
    )
    for result in done.iter_rows():
        if result["failure"]:
            raise DataError(result["failure"])
        yield result


def elastic(size: int, most: int | None) -> Any:
    """A pool that begins with ``size`` actors, may lose all but one, and grows to ``most`` when nodes join."""
    return ray.data.ActorPoolStrategy(min_size=1, initial_size=size, max_size=None if most is None else max(most, size))
