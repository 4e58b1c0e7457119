"""The training job of the bundled encoder: Ray Train around the plain loop of `encoder_loop`."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from ray import train as ray_train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device, prepare_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from xmrank.cluster import connect, pool_size
from xmrank.config import TrainEncoderConfig, semantic
from xmrank.embedding.encoder import Encoder, load_encoder
from xmrank.embedding.encoder_loop import Pairs, Training, draw_pairs, normalisation, read_history
from xmrank.errors import ConfigError
from xmrank.files import atomic, write_json
from xmrank.paths import resolve
from xmrank.stage import Manifest, Stage

STAGE = "train_encoder"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"


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
    stage = Stage.open(output, STAGE, config=semantic(config), inputs={}, overwrite=config.overwrite)
    if stage.done is None:
        stage.done = run_training(stage, config)
    last = json.loads((output / "history.json").read_text())[-1]
    print(f"{STAGE}: {describe(last)}; weights in {output / f'{config.model}.safetensors'}")
    return stage.done


def refuse_foreign_text(encoder: Encoder) -> None:
    """Only open_clip's own text transformer can be cut down to the tokens that the captions use."""
    if not hasattr(getattr(encoder.model, "text", encoder.model), "token_embedding"):
        raise ConfigError(f"--model {encoder.name}: expected a model with open_clip's own text transformer")


def run_training(stage: Stage, config: TrainEncoderConfig) -> Manifest:
    """Train on the cluster, then put the output together."""
    connect()
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    workers, cpus, gpus = pool_size(config.workers)
    if config.batch_size < workers:
        raise ConfigError(f"--batch-size {config.batch_size}: expected at least one pair for each of {workers} workers")
    TorchTrainer(
        train_worker,
        train_loop_config={"config": config, "work": stage.work},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpus else {})
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(name="ray", storage_path=str(stage.work), failure_config=FailureConfig(max_failures=2)),
    ).fit()
    with atomic(stage.directory / f"{config.model}.safetensors") as temporary:
        save_file(load_file(stage.work / WEIGHTS), temporary, metadata={"format": "pt"})
    history = read_history(stage.work / CHECKPOINT)
    write_json(stage.directory / "history.json", history)
    return stage.finish(counts={"images": config.images, "epochs": len(history)}, settings={"workers": workers})


def train_worker(settings: dict[str, Any]) -> None:
    """One rank: draw its share of the scenes, train, and on rank 0 write the weights."""
    config: TrainEncoderConfig = settings["config"]
    work: Path = settings["work"]
    context = ray_train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    encoder = load_encoder(config.model, "none", init_seed=config.seed, device=get_device())
    share = config.images // world_size
    pairs = draw_pairs(encoder, config.data_seed, "train", range(rank * share, (rank + 1) * share))
    training = Training(encoder, pairs, config, rank=rank, world_size=world_size, wrap=prepare_model)
    held_out = HeldOut(config) if rank == 0 else None

    def measure(weights: dict[str, Tensor]) -> dict[str, float]:
        return held_out.measure(weights) if held_out else {}

    def report(speed: dict[str, float]) -> None:
        if rank == 0:
            done = f"epoch {len(training.history)}/{config.epochs}, {describe(training.history[-1])}"
            print(
                f"{STAGE}: {done}, {speed['images_per_s']:.0f} images/s, {speed['left_s'] / 60:.1f} min left",
                flush=True,
            )
        ray_train.report(speed)

    training.run(work / CHECKPOINT, measure, report)
    if rank == 0:
        with atomic(work / WEIGHTS) as temporary:
            save_file(training.weights(), temporary)


class HeldOut:
    """Scenes kept from training, and the model as it will be read back, to measure hit@1 with."""

    def __init__(self, config: TrainEncoderConfig) -> None:
        self.encoder = load_encoder(config.model, "none", init_seed=config.seed, device=get_device())
        self.pairs = draw_pairs(self.encoder, config.data_seed, "val", range(config.held_out))

    def measure(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """hit@1 in percent in both directions, over the full gallery of the held-out scenes."""
        self.encoder.model.load_state_dict(weights)
        images, texts = embed_pairs(self.encoder, self.pairs)
        return hit_at_1(images @ texts.T, self.pairs.tokens.shape[1])


def embed_pairs(encoder: Encoder, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Images and captions as unit vectors, float32 [N, d] and [N · 5, d], on the encoder's device."""
    mean, std = normalisation(encoder)
    images = [encoder.encode_images((part / 255 - mean) / std) for part in pairs.pixels.split(256)]
    tokens = pairs.tokens.flatten(0, 1).to(encoder.device)
    texts = [encoder.encode_tokens(part) for part in tokens.split(1024)]
    return torch.cat(images), torch.cat(texts)


def hit_at_1(similarity: Tensor, captions: int) -> dict[str, float]:
    """Percent of the queries whose best answer is right.

    Args:
        similarity: [images, texts]; the texts of image i are those from i · captions on.
        captions: how many captions an image has.
    """
    count = len(similarity)
    i2t = similarity.argmax(1) // captions == torch.arange(count, device=similarity.device)
    t2i = similarity.argmax(0) == torch.arange(count * captions, device=similarity.device) // captions
    return {"i2t_hit_at_1": 100 * i2t.float().mean().item(), "t2i_hit_at_1": 100 * t2i.float().mean().item()}


def describe(entry: dict[str, float]) -> str:
    """One epoch of the history in words."""
    hits = f"i2t {entry['i2t_hit_at_1']:.1f} %, t2i {entry['t2i_hit_at_1']:.1f} %"
    return f"loss {entry['loss']:.3f}, held-out hit@1 {hits}"
