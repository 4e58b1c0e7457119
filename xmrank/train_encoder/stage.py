"""The training job of the bundled encoder: Ray Train around the plain loop of `encoder_loop`."""

import contextlib
import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from safetensors.torch import load_file, save_file

from xmrank.config import TrainEncoderConfig, semantic
from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.runtime.cluster import connect, pool_size
from xmrank.runtime.directory import Manifest, StageDirectory
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import atomic, write_json
from xmrank.runtime.paths import resolve
from xmrank.runtime.progress import Progress
from xmrank.train_encoder.contrastive import ContrastiveTraining, HeldOutScenes, draw_pairs, read_history

STAGE = "train_encoder"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
HISTORY = "history.json"
RESTARTS = 3
"""How often Ray Train replaces workers that died before the job gives up."""
POLL_S = 1.0


def train_encoder(config: TrainEncoderConfig) -> Manifest:
    """Train an encoder; a finished one is left as it is, an interrupted run goes on after its last whole epoch.

    Writes `<model>.safetensors` (half precision), which `--pretrained` reads, and `history.json` (loss and held-out
    hit@1 of every epoch).

    Raises:
        ConfigError: an unknown model, or one whose text side has no token table; fewer images a step than workers.
        DataError: the output directory holds something else.
    """
    output = resolve(config.output)
    refuse_foreign_text(load_encoder(config.model, "none", init_seed=config.seed))
    stage = StageDirectory.open(output, STAGE, config=semantic(config), inputs={}, overwrite=config.overwrite)
    if stage.done is None:
        stage.done = run_training(stage, config)
    last = json.loads((output / HISTORY).read_text())[-1]
    print(f"{STAGE}: {describe(last)}; weights in {output / f'{config.model}.safetensors'}")
    return stage.done


def refuse_foreign_text(encoder: Encoder) -> None:
    """Only open_clip's own text transformer can be cut down to the tokens that the captions use."""
    if not hasattr(getattr(encoder.model, "text", encoder.model), "token_embedding"):
        raise ConfigError(f"--model {encoder.name}: expected a model with open_clip's own text transformer")


def run_training(stage: StageDirectory, config: TrainEncoderConfig) -> Manifest:
    """Train on the cluster, then put the output together."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")  # the default, 2 s, is felt in short runs
    connect()
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    workers, cpus, gpus = pool_size(config.workers)
    if config.batch_size < workers:
        raise ConfigError(f"--batch-size {config.batch_size}: expected at least one pair for each of {workers} workers")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config, "work": stage.work},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus}),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name="ray", storage_path=str(stage.work), failure_config=FailureConfig(max_failures=RESTARTS)
        ),
    )
    with watched(stage.work / CHECKPOINT, config):
        trainer.fit()
    with atomic(stage.directory / f"{config.model}.safetensors") as temporary:
        save_file(load_file(stage.work / WEIGHTS), temporary, metadata={"format": "pt"})
    history = read_history(stage.work / CHECKPOINT)
    write_json(stage.directory / HISTORY, history)
    return stage.finish(counts={"images": config.images, "epochs": len(history)}, settings={"workers": workers})


def train_worker(settings: dict[str, Any]) -> None:
    """One rank: draw its share of the scenes, train, and on rank 0 write the weights."""
    config: TrainEncoderConfig = settings["config"]
    work: Path = settings["work"]
    warnings.filterwarnings("ignore", category=FutureWarning, module="open_clip")  # of the gather inside its loss
    torch.set_num_threads(1)  # one process a core is faster than one with several threads
    rank, world_size = get_context().get_world_rank(), get_context().get_world_size()
    encoder = load_encoder(config.model, "none", init_seed=config.seed, device=get_device())
    share = config.images // world_size
    pairs = draw_pairs(encoder, config.data_seed, "train", range(rank * share, (rank + 1) * share))
    training = ContrastiveTraining(encoder, pairs, config, rank=rank, world_size=world_size)
    training.run(work / CHECKPOINT, HeldOutScenes(config, get_device()) if rank == 0 else None)
    if rank == 0:
        with atomic(work / WEIGHTS) as temporary:
            save_file(training.weights(), temporary)


@contextlib.contextmanager
def watched(checkpoint: Path, config: TrainEncoderConfig) -> Iterator[None]:
    """Show images trained on, their rate, the time left and the last epoch's figures, read off the checkpoint."""
    stop = threading.Event()
    epochs = len(read_history(checkpoint))
    with Progress(f"{STAGE} (images)", config.epochs * config.images, epochs * config.images) as progress:

        def watch() -> None:
            nonlocal epochs
            while not stop.wait(POLL_S):
                history = read_history(checkpoint)
                if len(history) > epochs:
                    note = f"epoch {len(history)}/{config.epochs}, {describe(history[-1])}"
                    progress.advance((len(history) - epochs) * config.images, note)
                    epochs = len(history)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def describe(entry: dict[str, float]) -> str:
    """One epoch of the history in words."""
    hits = f"i2t {entry['i2t_hit_at_1']:.1f} %, t2i {entry['t2i_hit_at_1']:.1f} %"
    return f"loss {entry['loss']:.3f}, held-out hit@1 {hits}"
