"""Configuration of the encoder's training."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from xmrank.config.common import at_least
from xmrank.runtime.errors import ConfigError

CAPTIONS_EACH = 5
"""Captions of every generated image."""


@dataclass(frozen=True)
class TrainEncoderConfig:
    """Train xmrank-tiny, or another model of open_clip, from scratch on generated images."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset({"output", "workers", "overwrite"})
    output: Path = Path("runs/encoder")
    """Directory of the trained weights."""
    model: str = "xmrank-tiny"
    """The model's configuration: xmrank-tiny, or a name that open_clip knows."""
    distribution: Literal["web", "scenes"] = "web"
    """What to train on. web: pictures like those of web pages, with terse and noisy alt texts; scenes: the kind of
    images and captions that the data set scenes has."""
    images: int = 24000
    """Number of images to train on, with five captions each."""
    held_out: int = 400
    """Number of scenes on which hit@1 is measured after every epoch; they are not trained on."""
    data_seed: int = 1000003
    """Seed of all these images; it must not be that of a data set on which the encoder will be evaluated."""
    seed: int = 0
    """Seed of the initial weights, the data order and the augmentation."""
    epochs: int = 16
    """Passes over the images."""
    captions: int = 3
    """How many of an image's five captions a step uses; they are drawn anew in each step."""
    batch_size: int = 128
    """Images per step, over all workers; the captions of the other images are the negatives."""
    learning_rate: float = 1.5e-3
    """Highest learning rate of AdamW."""
    warmup: float = 0.05
    """Fraction of the steps in which the learning rate rises; after that it falls as a cosine."""
    weight_decay: float = 0.1
    """Decoupled weight decay of the matrices."""
    shift: int = 3
    """Augmentation: the images of a step are shifted by up to this many pixels. They are never mirrored, since captions
    say left and right."""
    autocast: bool = True
    """Compute the image side in bfloat16."""
    workers: int = 0
    """Training processes; 0: one per GPU, or one per core. An interrupted run goes on with the number with
    which it was begun."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""

    def __post_init__(self) -> None:
        for name in ("images", "held_out", "epochs", "captions", "batch_size"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("shift", "workers", "weight_decay"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        if self.captions > CAPTIONS_EACH:
            raise ConfigError(f"--captions {self.captions}: expected at most {CAPTIONS_EACH}, which an image has")
        if self.batch_size > self.images:
            raise ConfigError(f"--batch-size {self.batch_size} exceeds --images {self.images}")
        if self.learning_rate <= 0:
            raise ConfigError(f"--learning-rate {self.learning_rate}: expected more than 0")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"--warmup {self.warmup}: expected a fraction between 0 and 1")
