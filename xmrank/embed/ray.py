"""The embedding stage's Ray part: a pool of encoder actors, fed by a pool of readers where there are GPUs."""

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
from xmrank.embed.token_extraction import TokenExtractor
from xmrank.embed.token_fitting import fit_projections
from xmrank.embed.token_planning import TokenShape
from xmrank.embed.token_projection import TokenProjection
from xmrank.embed.token_store import Side
from xmrank.runtime.cluster import connect, pool_size, silence_ray_data
from xmrank.runtime.device import name_device, own_device
from xmrank.runtime.errors import DataError, XmrankError
from xmrank.runtime.progress import show_activity

CPU_BATCH = 64
"""Items at once on a CPU, where more are no faster."""
MAX_BLOCKS = 10_000
"""Most blocks of a pipeline: with more shards, a block has several."""


@dataclass(frozen=True)
class WorkerPools:
    """How many actors there are, and what each has.

    Attributes:
        encoders: encoder actors at the start.
        most: encoder actors when nodes have joined; None: as many as fit.
        cpus, gpus: of each encoder.
        readers: actors that read, decode and resize for the encoders; 0: each encoder does so itself.
    """

    encoders: int
    most: int | None
    cpus: float
    gpus: int
    readers: int = 0


def plan_pools(requested: int, shards: int) -> WorkerPools:
    """The pools for the cluster as it is now.

    Separate readers pay where a GPU would otherwise wait for images. Without GPUs, readers and encoders would share
    the cores and send each other pixels: one process that does both is faster, however many cores there are.
    """
    workers, cpus, gpus = pool_size(requested)
    workers = min(workers, shards)
    most = requested or None
    if not gpus:
        return WorkerPools(workers, most, cpus, gpus)
    per_encoder = min(cpus, 0.5)  # an encoder with readers only starts kernels
    spare = int(ray.cluster_resources().get("CPU", 1.0) - workers * per_encoder)
    return WorkerPools(workers, most, per_encoder if spare else cpus, gpus, min(spare, shards))


class ShardReader:
    """An actor of the readers' pool: prepares one shard a call, all its batches at once."""

    def __init__(self, preparer: Preparer, work: Path) -> None:
        # Decoding is one thread's work; there are as many readers as cores.
        torch.set_num_threads(1)
        self.preparer, self.work = preparer, work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with the prepared shard added, or with the failure."""
        return row | catch_failure(lambda: {"prepared": self.prepare_shard(Shard(**row))}, self.work)

    def prepare_shard(self, shard: Shard) -> PreparedShard:
        """The prepared shard; without batches when it is done."""
        # Ray may repeat a block after a loss: what is done needs no preparation.
        if report := read_report(shard, self.work):
            return PreparedShard(report, [])
        prepared = self.preparer.prepare_shard(shard, self.work)
        return replace(prepared, batches=list(prepared.batches))


class ShardEncoder:
    """An actor of the encoders' pool: loads the model once, then encodes one shard a call."""

    def __init__(self, settings: dict[str, Any], preparer: Preparer, work: Path) -> None:
        torch.set_num_threads(settings["threads"])
        self.settings, self.preparer, self.work = settings, preparer, work

    @cached_property
    def encoder(self) -> Encoder:
        """The model, on this worker's device."""
        return load_from_settings(self.settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode the shard in a row; returns the number of its items, of the broken ones, and the failure (or "")."""
        if row.get("failure"):
            return {"items": 0, "broken": 0, "failure": row["failure"]}
        # A reader has added columns to the row.
        shard = Shard(**{name: row[name] for name in Shard.__dataclass_fields__})
        return {"items": 0, "broken": 0} | catch_failure(
            lambda: self.encode_shard(shard, row.get("prepared")), self.work
        )

    def encode_shard(self, shard: Shard, prepared: PreparedShard | None) -> dict[str, Any]:
        """Encode a shard, prepared by a reader or here.

        A shard that is done is not encoded again: when a worker is lost, Ray repeats the block it was working on.
        """
        report = read_report(shard, self.work)
        if report is None:
            # Without readers, the encoder prepares its own shards.
            prepared = prepared or self.preparer.prepare_shard(shard, self.work)
            known = self.preparer.known.store if self.preparer.known else None
            report = encode_shard(
                shard,
                prepared,
                self.encoder,
                self.work,
                dtype=self.settings["dtype"],
                known=known,
                tokens=self.settings["tokens"],
            )
        return {"items": report.items, "broken": len(report.broken)}


def catch_failure(step: Callable[[], dict[str, Any]], work: Path) -> dict[str, Any]:
    """The result of a step, with a failure that the user can fix as the value ``failure``.

    Not as an exception: Ray Data wraps exceptions, and the original is lost on the way.
    """
    try:
        return step() | {"failure": ""}
    except XmrankError as error:
        return {"failure": str(error)}
    except torch.OutOfMemoryError:
        return {"failure": "a batch does not fit into the GPU's memory: give a smaller --batch-size, and --overwrite"}
    except OSError as error:
        return {"failure": f"{error.filename or work}: {error.strerror or error}"}


def load_from_settings(settings: dict[str, Any]) -> Encoder:
    """The model of the settings, on this process's device."""
    encoder = load_encoder(
        settings["model"],
        settings["pretrained"],
        init_seed=settings["init_seed"],
        precision=settings["precision"],
        device=own_device(),
    )
    return encoder.compile_model() if settings["compile"] else encoder


def choose_batch_size(settings: dict[str, Any], preparer: Preparer, largest: int) -> int:
    """Number of items to encode at once: as many as fit into a GPU's memory, at most a shard; on CPUs ``CPU_BATCH``.

    Raises:
        DataError: not even one item fits.
    """
    connect()
    _, cpus, gpus = pool_size(1)
    if not gpus:
        return min(CPU_BATCH, largest)
    # Tried on a worker: this process may have no GPU.
    remote = ray.remote(num_cpus=cpus, num_gpus=1)(find_batch_size)
    size = int(ray.get(remote.remote(settings, preparer, largest)))
    if not size:
        raise DataError(f"{settings['model']}: does not fit into the GPU's memory")
    return size


def find_batch_size(settings: dict[str, Any], preparer: Preparer, largest: int) -> int:
    """The largest of ``largest``, its half, its quarter, … that fits into this device's memory; 0 when none does."""
    # Compiling for every size that is tried would take minutes.
    encoder = load_from_settings(settings | {"compile": False})
    recipe = settings["tokens"]
    # What encodes a batch when tokens are kept needs more memory.
    model = TokenExtractor(encoder, recipe.settings) if recipe else encoder
    size = largest
    while size and not fits_memory(model, preparer, size):
        size //= 2
    return size


def fits_memory(encoder: Encoder | TokenExtractor, preparer: Preparer, size: int) -> bool:
    """Whether this many images, and this many captions, fit into the device's memory."""
    from PIL import Image

    pixels = preparer.pixels.prepare(Image.new("RGB", (64, 64)))
    try:
        encoder.encode_images(pixels[None].expand(size, *pixels.shape))
        encoder.encode_tokens(preparer.tokenizer(["a"]).expand(size, -1))
    except torch.OutOfMemoryError:
        # The next, smaller size would find the memory in fragments.
        torch.cuda.empty_cache()
        return False
    return True


def fit_on_worker(
    settings: dict[str, Any], preparer: Preparer, shape: TokenShape, sample: dict[Side, list[str]]
) -> dict[Side, TokenProjection]:
    """The axes of a sample's tokens (``fit_projections``), by one worker whatever their number, so that they are equal.

    Raises:
        DataError: no image of the sample can be read.
    """
    connect()
    _, cpus, gpus = pool_size(1)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(fit_from_settings)
    result = ray.get(remote.remote(settings, preparer, shape, sample))
    if result["failure"]:
        raise DataError(result["failure"])
    projections: dict[Side, TokenProjection] = result["projections"]
    return projections


def fit_from_settings(
    settings: dict[str, Any], preparer: Preparer, shape: TokenShape, sample: dict[Side, list[str]]
) -> dict[str, Any]:
    """The projections, or the failure, of ``fit_projections`` with the model of the settings."""
    torch.set_num_threads(settings["threads"])
    # Compiling for this sample would take longer than the sample.
    encoder = load_from_settings(settings | {"compile": False})
    return catch_failure(
        lambda: {"projections": fit_projections(encoder, preparer, settings["tokens"], shape, sample)}, Path()
    )


def encode_shards(
    shards: list[Shard], settings: dict[str, Any], preparer: Preparer, work: Path, workers: int
) -> Iterator[dict[str, Any]]:
    """Encode shards on the cluster; yields the items and broken items of each when it is finished, in any order.

    The pools shrink and grow with the cluster: when a node leaves, only the shards that its workers had not finished
    are encoded again.

    Raises:
        DataError: a failure on a worker that the user can fix, such as a full disk.
    """
    connect()
    silence_ray_data()
    pools = plan_pools(workers, len(shards))
    # A block for each shard, so that a lost worker costs no more than one.
    blocks = min(len(shards), MAX_BLOCKS)
    rows = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=blocks)
    if pools.readers:
        rows = rows.map(
            ShardReader,
            fn_constructor_args=(preparer, work),
            compute=make_pool_strategy(pools.readers, None),
            num_cpus=1,
        )
    done = rows.map(
        ShardEncoder,
        fn_constructor_args=(settings, preparer, work),
        compute=make_pool_strategy(pools.encoders, pools.most),
        num_cpus=pools.cpus,
        num_gpus=pools.gpus,
    )
    show_activity(
        "shards from encoders" + (f" and {pools.readers} readers" if pools.readers else ""),
        pools.encoders,
        name_device(pools.gpus),
    )
    for result in done.iter_rows():
        # Raised here, in the driver, where it is still the original message.
        if result["failure"]:
            raise DataError(result["failure"])
        yield result


def make_pool_strategy(size: int, most: int | None) -> Any:
    """A pool that begins with ``size`` actors, may lose all but one, and grows to ``most`` when nodes join."""
    return ray.data.ActorPoolStrategy(min_size=1, initial_size=size, max_size=None if most is None else max(most, size))
