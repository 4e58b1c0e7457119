"""Configuration of the training of rankers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from xmrank.config.common import (
    DIRECTIONS,
    RUN,
    WORKER_TIMEOUT_S,
    Direction,
    ExplicitNames,
    at_least,
    more_than_zero,
    name_flag,
)
from xmrank.losses import LOSS_MODULES
from xmrank.losses.loss_parameters import LossParameters
from xmrank.rankers.parameters import AnyRankerParameters, ContextAwareParameters, RefinementParameters
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class RefinementSettings(RefinementParameters):
    """The refined similarity: adapters, hubness correction and memory, learned before the ranker and then fixed.

    Each ensemble member learns on all folds of the training images but one, with an in-batch softmax, and refines the
    training lists of that fold. Outside training the members are averaged. A refinement that ranks the validation lists
    worse than the first stage is put aside: its rankers start from the first stage.
    """

    members: int = 3
    """Ensemble members, pairs of adapters whose similarities are averaged; 0: no refinement, the first-stage similarity
    is used."""
    memory_weight: float = 0.3
    """Weight of the key–value memory, where the images of similar training captions represent a caption; 0: none."""
    dropout: float = 0.5
    """Dropout probability of an adapter's hidden values."""
    noise: float = 0.5
    """Expected length of the Gaussian noise that is added to the embeddings in training."""
    epochs: int = 5
    """Passes over all pairs of an image and a caption."""
    pairs: int = 500
    """Pairs per batch; the other pairs of the batch are the negatives."""
    learning_rate: float = 1e-3
    """Highest learning rate of AdamW. It rises to this and then falls to 0, or stays constant with --refine.average."""
    average: float = 0.5
    """Share of the steps, the last ones, over which the weights are averaged; 0: the weights of the last step."""
    weight_decay: float = 0.05
    """Decoupled weight decay; biases have none."""
    scale: float = 20.0
    """Factor of the cosines in the softmax (the inverse temperature)."""
    bank_size: int = 1000
    """Training queries, one per image, against which hubness is measured."""
    memory_size: int = 20_000
    """Largest number of training captions in the memory; a random sample if there are more."""
    learn_fusion: bool = True
    """Learn the fusion weights (those of the hubness, of the memory, and of the memory's hubness) on training lists;
    the given weights are the start."""

    def __post_init__(self) -> None:
        # The parameters of the model know nothing of flags; here their messages get them.
        try:
            super().__post_init__()
        except ValueError as error:
            raise ConfigError(name_flag("refine", error)) from None
        for name in ("epochs", "pairs", "memory_size"):
            at_least(f"--refine.{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("noise", "weight_decay", "bank_size"):
            at_least(f"--refine.{name.replace('_', '-')}", getattr(self, name), 0)
        # Cross-fitting: a member needs other folds to learn on.
        if self.members == 1:
            raise ConfigError("--refine.members 1: expected 0 or at least 2, since each learns on the others' folds")
        if not 0 <= self.average <= 1:
            raise ConfigError(f"--refine.average {self.average}: expected 0 to 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"--refine.dropout {self.dropout}: expected at least 0 and below 1")
        for name in ("learning_rate", "scale"):
            more_than_zero(f"--refine.{name.replace('_', '-')}", getattr(self, name))


@dataclass(frozen=True)
class DetectionSettings:
    """Word detection: before the rankers, the encoders of a token ranker learn which words the captions of an image
    have. Trials of one seed share the result."""

    epochs: int = 0
    """Passes over the training images; 0: no word detection. The text tokens must be word embeddings."""
    batch_size: int = 32
    """Images per step."""
    learning_rate: float = 2e-3
    """Highest learning rate of AdamW; one cycle."""
    weight_decay: float = 0.02
    """Decoupled weight decay of the matrices."""

    def __post_init__(self) -> None:
        at_least("--detect.epochs", self.epochs, 0)
        at_least("--detect.batch-size", self.batch_size, 1)
        at_least("--detect.weight-decay", self.weight_decay, 0)
        more_than_zero("--detect.learning-rate", self.learning_rate)


@dataclass(frozen=True)
class TrainConfig:
    """Train a ranker for every loss, direction and seed.

    With the defaults, training starts from a refined first stage and keeps the best epoch, the start included. The
    preset paper has the paper's settings.
    """

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"embeddings", "lists", "output", "best", "workers", "worker_timeout", "stack", "overwrite"}
    )
    SELECTED_BY: ClassVar[dict[str, str]] = {"loss": "losses"}
    embeddings: Path = RUN / "embeddings"
    """Embedding store that the lists were mined from."""
    lists: Path = RUN / "lists"
    """Candidate lists."""
    output: Path = RUN / "rankers"
    """Directory of the trained rankers."""
    losses: tuple[str, ...] = ("lambdarank", "neural_ndcg", "listnet", "ranknet")
    """Loss functions; a ranker is trained with each."""
    directions: tuple[Direction, ...] = DIRECTIONS
    """i2t (image query → captions), t2i (caption query → images)."""
    loss: LossParameters = field(default_factory=LossParameters)
    """Parameters of the loss functions."""
    best: Path | None = None
    """Best settings for each direction and loss, as found by tune.py (best.json). They replace defaults and a preset's
    settings; a setting that is given as a flag is kept."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds; a ranker is trained with each. Initial weights, data order and dropout depend on it."""
    ranker: AnyRankerParameters = field(default_factory=ContextAwareParameters)
    """The ranker: context_aware (the paper's transformer), pointwise (an MLP), linear, or, for stores with tokens,
    late_interaction or cross_attention."""
    refine: RefinementSettings = field(default_factory=RefinementSettings)
    """The refined similarity."""
    detect: DetectionSettings = field(default_factory=DetectionSettings)
    """Word detection, for rankers that read tokens."""
    sampling: Literal["fixed", "random-hard", "sub-gallery", "in-batch"] = "random-hard"
    """Training lists: fixed (as mined), or sampled anew in every epoch, one list per training image or per caption:
    random-hard (with the same numbers as the mined lists, as far as there are so many images), sub-gallery (the first
    stage's top --sampling-top of a random gallery of --sampling-images images, together with the positives there) or
    in-batch (the lists of a step share a random gallery of --batch-size images; each holds its hardest --sampling-top
    items and the positives, so that a ranker that reads tokens encodes few items a step)."""
    sampling_positives: Literal["auto", "mined", "retrieved"] = "auto"
    """random-hard: positives are added to the list as they were in mining, or must be retrieved: a positive is listed
    only if it is among the hardest candidates, so that its position in the list reveals nothing. auto: retrieved, but
    mined where the mined lists leave out likely positives (--positive-margin, --duplicate-cosine of mine.py)."""
    sampling_images: int = 1000
    """sub-gallery: approximate number of images per gallery; the training images are divided into such galleries."""
    sampling_top: int = 100
    """sub-gallery: items per list; in-batch: hardest items per list."""
    epochs: int = 3
    """Passes over the training lists."""
    batch_size: int = 32
    """Lists per training step, over all workers of a trial."""
    learning_rate: float = 5e-4
    """Learning rate of Adam; with one_cycle, the highest."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    schedule: Literal["constant", "one_cycle"] = "one_cycle"
    """Learning-rate schedule."""
    gradient_clip: float | None = None
    """Largest norm of a step's gradient; None: no clipping."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the ranker's computations. Weights, losses and optimiser are fp32 in both cases."""
    micro_batch: int = 0
    """Lists per forward pass; a step accumulates the gradients of several. 0: all lists of the step."""
    validate_every: int = 1
    """Epochs between validations. The state of the training is saved after each."""
    validate_every_steps: int | None = None
    """Steps between validations; None: validate after epochs."""
    validate_start: bool = True
    """Also validate before the first step. With a residual and zero_init_output of the ranker, the best epoch is then
    never worse on the validation lists than the first stage."""
    patience: int | None = None
    """Stop after this many validations without an improvement; None: train all epochs."""
    workers: int = 0
    """Training processes; 0: one per GPU, or one per core. If nodes are lost, training goes on with fewer."""
    worker_timeout: float = WORKER_TIMEOUT_S
    """Seconds to wait, in all, until the cluster has room for --workers processes (0: for those of one trial). After
    that, training goes on with fewer; without room for one trial it ends, and the same command continues."""
    workers_per_trial: int = 1
    """Processes that train one ranker together (DDP); the other processes train other rankers."""
    stack: Literal["auto", "on", "off"] = "auto"
    """Train all losses and seeds of a direction as one stacked model in each process; auto: on a GPU. Rankers that
    read tokens are trained one at a time."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""
    explicit: ExplicitNames = field(default=frozenset(), compare=False)
    """Names of settings that --best does not replace."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "workers_per_trial", "validate_every", "validate_every_steps", "patience",
                     "sampling_images", "sampling_top"):  # fmt: skip
            if getattr(self, name) is not None:
                at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("workers", "worker_timeout", "micro_batch", "weight_decay"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        # A stack is one model in one process; DDP would divide it again.
        if self.stack == "on" and self.workers_per_trial > 1:
            raise ConfigError(f"--stack on: trains in one process; --workers-per-trial is {self.workers_per_trial}")
        if self.stack == "on" and self.ranker.reads_tokens:
            raise ConfigError(f"--stack on: {self.ranker.name} is trained one at a time; expected auto or off")
        if self.detect.epochs and not self.ranker.reads_tokens:
            raise ConfigError(
                f"--detect.epochs {self.detect.epochs}: {self.ranker.name} reads no tokens; expected 0, or --ranker "
                "late_interaction or cross_attention"
            )
        if self.sampling == "in-batch" and self.batch_size < 2:
            raise ConfigError(
                f"--sampling in-batch: the gallery is --batch-size {self.batch_size} images; expected at least 2"
            )
        # Training lists must hold images of one fold, on which their member has not learned.
        if self.refine.members and self.sampling == "fixed":
            raise ConfigError(
                f"--refine.members {self.refine.members}: expected 0 with --sampling fixed (or --sampling random-hard, "
                "sub-gallery or in-batch), since a fixed list mixes images that a member learned from with others"
            )
        more_than_zero("--learning-rate", self.learning_rate)
        # A negative norm would turn the gradient around.
        if self.gradient_clip is not None:
            more_than_zero("--gradient-clip", self.gradient_clip)
        for loss in self.losses:
            if loss not in LOSS_MODULES:
                raise ConfigError(f"--losses {loss}: expected one of {', '.join(LOSS_MODULES)}")
        for name in ("losses", "directions", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"--{name} {' '.join(map(str, values))}: expected one or more, each once")
        at_least("--seeds", min(self.seeds), 0)
        # The processes are divided into groups of equal size.
        if self.workers and self.workers % self.workers_per_trial:
            raise ConfigError(
                f"--workers {self.workers}: expected a multiple of --workers-per-trial {self.workers_per_trial}"
            )
        self._refuse_idle_losses()

    def _refuse_idle_losses(self) -> None:
        """Raise ConfigError for a flag of a loss that is not among the losses; a preset may have settings for it."""
        for name in sorted(self.explicit):
            section, loss, *_ = *name.split("."), ""
            if section == "loss" and loss not in self.losses:
                flag = f"--{name}".replace("_", "-")
                raise ConfigError(f"{flag}: {loss} is not among --losses {' '.join(self.losses)}")
