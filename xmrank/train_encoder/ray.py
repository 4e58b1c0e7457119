"""The Ray part of the encoder's training: the loop of ``contrastive`` in every worker process."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from xmrank.config import TrainEncoderConfig
from xmrank.config.common import WORKER_TIMEOUT_S
from xmrank.embed.encoder import load_encoder
from xmrank.runtime.cluster import connect, pool_size
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import atomic_path, read_kept_json, write_json
from xmrank.runtime.launcher import Worker, launch_workers
from xmrank.runtime.progress import Progress
from xmrank.runtime.watching import look_repeatedly
from xmrank.train_encoder.contrastive import ContrastiveTraining, HeldOutScenes, draw_pairs, read_history

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
BEGUN = "begun.json"
"""Holds the number of workers of a run that is not finished."""


@dataclass(frozen=True)
class EncoderWork:
    """What every worker needs to know.

    Attributes:
        folder: of the checkpoint and the final weights, shared by all nodes.
    """

    config: TrainEncoderConfig
    folder: Path


def train_on_cluster(config: TrainEncoderConfig, folder: Path) -> int:
    """Train until ``folder`` holds the final weights; returns the number of workers.

    Raises:
        ConfigError: fewer images in a step than workers, or another ``--workers`` than the run was begun with.
    """
    connect()
    workers = settle_workers(config, folder)
    if config.batch_size < workers:
        raise ConfigError(f"--batch-size {config.batch_size}: expected at least one pair for each of {workers} workers")
    with show_progress(folder / CHECKPOINT, config):
        work = EncoderWork(config, folder)
        # As one group: each process trains on its part of the scenes, so their number must not change.
        return launch_workers(
            train_worker,
            work,
            name="train_encoder",
            scratch=folder / "ray",
            workers=workers,
            timeout=WORKER_TIMEOUT_S,
            group_size=workers,
        )


def settle_workers(config: TrainEncoderConfig, folder: Path) -> int:
    """The number of workers: that with which an interrupted run was begun, whatever the cluster has now.

    Each worker draws from its own part of the images, so that another number would lead to other weights.

    Raises:
        ConfigError: ``--workers`` is another one.
        DataError: the file that holds the number is damaged.
    """
    workers, _, _ = pool_size(config.workers)
    path = folder / BEGUN
    # Before the first checkpoint nothing depends on the number.
    if (folder / CHECKPOINT).exists() and path.exists():
        begun = int(read_kept_json(path, dict).get("workers", workers))
        if config.workers not in (0, begun):
            raise ConfigError(
                f"--workers {config.workers}: expected {begun}, with which this run was begun; --overwrite begins anew"
            )
        return begun
    write_json(path, {"workers": workers})
    return workers


def train_worker(work: EncoderWork, worker: Worker) -> None:
    """One process: draw its part of the scenes, train, and on rank 0 write the weights."""
    config = work.config
    warnings.filterwarnings("ignore", category=FutureWarning, module="open_clip")  # of the gather inside its loss
    encoder = load_encoder(config.model, "none", init_seed=config.seed, device=worker.device)
    count = config.images // worker.world_size
    numbers = range(worker.rank * count, (worker.rank + 1) * count)
    pairs = draw_pairs(encoder, config.data_seed, "train", numbers, config.distribution)
    training = ContrastiveTraining(encoder, pairs, config, rank=worker.rank, world_size=worker.world_size)
    training.train(work.folder / CHECKPOINT, HeldOutScenes(config, worker.device) if worker.rank == 0 else None)
    if worker.rank == 0:
        with atomic_path(work.folder / WEIGHTS) as temporary:
            save_file(training.copy_weights(), temporary)


@contextlib.contextmanager
def show_progress(checkpoint: Path, config: TrainEncoderConfig) -> Iterator[None]:
    """Show the images trained on, their rate, the time left and the last epoch's figures, read from the checkpoint."""
    epochs = len(read_history(checkpoint))
    with Progress("train_encoder (images)", config.epochs * config.images, epochs * config.images) as progress:

        def look() -> None:
            nonlocal epochs
            history = read_history(checkpoint)
            if len(history) > epochs:
                note = f"epoch {len(history)}/{config.epochs}, {describe_epoch(history[-1])}"
                progress.advance((len(history) - epochs) * config.images, note)
                epochs = len(history)

        # The workers are other processes: this one waits for them.
        with look_repeatedly(look, checkpoint.parent):
            yield


def describe_epoch(entry: dict[str, float]) -> str:
    """One epoch of the history in words."""
    hits = f"i2t {entry['i2t_hit_at_1']:.1f} %, t2i {entry['t2i_hit_at_1']:.1f} %"
    return f"loss {entry['loss']:.3f}, held-out hit@1 {hits}"
