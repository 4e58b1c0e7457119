"""Training without a job: one ranker, in the calling process, on lists in memory."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmrank.config import DIRECTIONS, Direction, RefinementSettings, TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.losses import LOSSES
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers import Ranker
from xmrank.runtime.errors import ConfigError
from xmrank.train.checkpoint import read_ranker
from xmrank.train.list_data import ListData
from xmrank.train.token_sides import check_tokens
from xmrank.train.trainer import TrainingJob, train_group
from xmrank.train.training_data import TrainingData
from xmrank.train.trial_log import TrialLog
from xmrank.train.trial_settings import LOSS_PREFIX, check_loss, with_point
from xmrank.train.trials import HISTORY, Trial
from xmrank.train.word_detection import WordDetection
from xmrank.train.worker_group import WorkerGroup

SETTINGS = ("ranker", "detect", "epochs", "batch_size", "learning_rate", "weight_decay", "schedule", "gradient_clip",
            "precision", "micro_batch", "validate_every", "validate_every_steps", "validate_start",
            "patience")  # fmt: skip
"""The settings of a training on fixed lists, as `xmrank.config.TrainConfig` has them."""


def train_ranker(
    store: EmbeddingStore,
    lists: CandidateLists,
    validation: CandidateLists,
    *,
    direction: Direction,
    loss: str = "lambdarank",
    seed: int = 0,
    device: torch.device | str = "cpu",
    loss_parameters: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[Ranker, dict[str, Any]]:
    """Train a ranker in the calling process: as `xmrank train` does on fixed lists, without Ray and MLflow.

    Settings that are not given are those of `xmrank train`: training starts from the first stage's ranking and keeps
    the best epoch, the start included. There is no refinement, whose members need lists of their own folds.

    Args:
        store: the embeddings that the lists point into, and their tokens, if the ranker reads some.
        lists: the lists to train on.
        validation: the lists that choose the epoch, by the mean of hit@1, hit@5 and hit@10.
        direction: "i2t" (image queries, captions as candidates) or "t2i".
        loss: a name in `xmrank.losses.LOSSES`.
        seed: initial weights, the order of the lists and dropout follow from it.
        device: where to train.
        loss_parameters: of the loss, by name.
        settings: ``ranker`` (parameters such as `xmrank.rankers.ContextAwareParameters`), ``epochs``, ``batch_size``,
            ``learning_rate`` and the others of ``SETTINGS``, as the flags of `xmrank train`.

    Returns:
        The ranker of the best epoch, in evaluation mode, and its history: loss, direction, seed, ``best_epoch``, and
        ``epochs``, one entry for each validation with the losses and metrics of training and validation.

    Raises:
        ConfigError: an unknown loss, direction or setting, or a value out of range.
        TrialFailed: the loss is not finite any more.

    >>> import numpy as np
    >>> from xmrank.mine.in_memory import mine_lists
    >>> generator = np.random.default_rng(0)
    >>> image = generator.normal(size=(60, 8)).astype(np.float32)
    >>> text = image + generator.normal(size=(60, 8)).astype(np.float32)
    >>> store = EmbeddingStore.from_arrays(image, text, splits=["train"] * 40 + ["val"] * 20)
    >>> train, validation = (
    ...     mine_lists(store, direction="t2i", split=split, random_candidates=10, hard_negatives=5)
    ...     for split in ("train", "val")
    ... )
    >>> ranker, history = train_ranker(store, train, validation, direction="t2i", loss="listnet", epochs=3)
    >>> [epoch["epoch"] for epoch in history["epochs"]]
    [0, 1, 2, 3]
    """
    config = make_config(direction, loss, seed, loss_parameters or {}, settings)
    where = torch.device(device)
    check_tokens(config.ranker, store)
    train_lists, validation_lists = (
        ListData.of(part, store, direction, where, tokens=config.ranker.reads_tokens) for part in (lists, validation)
    )
    trial = Trial(loss, direction, seed)
    # The trainer keeps its state and its result in a folder, as it does for a job.
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        output = Path(folder)
        images = np.unique(lists.queries if direction == "i2t" else lists.candidates).astype(np.int64)
        detection = WordDetection.of(store, images, config, output / "detections")
        data = TrainingData(train_lists, validation_lists, config.refine, images=images, detection=detection)
        train_group([trial], TrainingJob(config, data, output, WorkerGroup(), {}, TrialLog()))
        ranker, _ = read_ranker(trial.directory(output), where)
        history = json.loads((trial.directory(output) / HISTORY).read_text())
    return ranker, dict(history)


def make_config(
    direction: Direction, loss: str, seed: int, loss_parameters: dict[str, Any], settings: dict[str, Any]
) -> TrainConfig:
    """The configuration of one training.

    Raises:
        ConfigError: a name or a value that is not allowed.
    """
    if loss not in LOSSES:
        raise ConfigError(f"loss {loss}: expected one of {', '.join(LOSSES)}")
    if direction not in DIRECTIONS:
        raise ConfigError(f"direction {direction}: expected one of {', '.join(DIRECTIONS)}")
    for name in settings:
        if name not in SETTINGS:
            raise ConfigError(f"{name}: no setting of a training on fixed lists; expected one of {', '.join(SETTINGS)}")
    on_fixed_lists: dict[str, Any] = {"sampling": "fixed", "refine": RefinementSettings(members=0)}
    config = TrainConfig(losses=(loss,), directions=(direction,), seeds=(seed,), **on_fixed_lists, **settings)
    if loss_parameters:
        config = with_point(config, loss, {f"{LOSS_PREFIX}{name}": value for name, value in loss_parameters.items()})
    check_loss(config, loss)
    return config
