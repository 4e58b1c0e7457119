"""The stage that trains the bundled encoder, or another of open_clip's models, on generated images."""

import json

from safetensors.torch import load_file, save_file

from xmrank.config import TrainEncoderConfig, semantic
from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.runtime.bf16_support import warn_of_slow_bf16
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import atomic_path, write_json
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.storage import local_copy
from xmrank.train_encoder.contrastive import read_history
from xmrank.train_encoder.ray import CHECKPOINT, WEIGHTS, describe_epoch, train_on_cluster

STAGE = "train_encoder"
HISTORY = "history.json"


def train_encoder(config: TrainEncoderConfig) -> Manifest:
    """Train an encoder; a finished one is left as it is, an interrupted run continues after its last complete epoch.

    Writes `<model>.safetensors` (half precision), which `--pretrained` reads, and `history.json` (loss and held-out
    hit@1 of every epoch).

    Raises:
        ConfigError: an unknown model, or one whose text side has no token table; fewer images in a step than workers.
        DataError: the output directory holds something else.
    """
    output = resolve(config.output)
    check_text_side(load_encoder(config.model, "none", init_seed=config.seed))
    stage = StageDirectory.open(output, STAGE, config=semantic(config), inputs={}, overwrite=config.overwrite)
    manifest = stage.done or run_training(stage, config)
    last = json.loads((output / HISTORY).read_text())[-1]
    print(f"{STAGE}: {describe_epoch(last)}; weights in {output / f'{config.model}.safetensors'}")
    return manifest


def check_text_side(encoder: Encoder) -> None:
    """Raise ConfigError unless the model has open_clip's own text transformer.

    Only that one's token table can be reduced to the tokens of the captions.
    """
    if not hasattr(getattr(encoder.model, "text", encoder.model), "token_embedding"):
        raise ConfigError(f"--model {encoder.name}: expected a model with open_clip's own text transformer")


def run_training(stage: StageDirectory, config: TrainEncoderConfig) -> Manifest:
    """Train on the cluster, then write the output."""
    if config.autocast:
        warn_of_slow_bf16(f"{STAGE}: --autocast")
    workers = train_on_cluster(config, stage.work)
    with atomic_path(stage.directory / f"{config.model}.safetensors") as temporary:
        # With the metadata that open_clip expects of a torch file.
        save_file(load_file(local_copy(stage.work / WEIGHTS)), temporary, metadata={"format": "pt"})
    history = read_history(stage.work / CHECKPOINT)
    write_json(stage.directory / HISTORY, history)
    return stage.finish(counts={"images": config.images, "epochs": len(history)}, settings={"workers": workers})
