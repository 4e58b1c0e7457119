"""Configuration of rankers and their training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from xmrank.config.common import DIRECTIONS, RUN, Direction, at_least
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class RankerConfig:
    """The ranker."""

    name: str = "context_aware"
    """Which ranker: context_aware (the paper's transformer over a list), pointwise (an MLP), linear."""
    features: tuple[str, ...] = ("concat",)
    """What the ranker sees of a query and a candidate: concat (the paper's), product, difference, cosine."""
    input_norm: bool = False
    """Layer norm over the embeddings that the ranker sees, ahead of the first layer."""
    hidden: tuple[int, ...] = ()
    """Sizes of further linear layers in front of the encoder; of the pointwise ranker, of all its layers."""
    activation: str | None = None
    """Activation of the linear layers: relu, gelu, silu or tanh."""
    width: int = 64
    """Width of the encoder."""
    layers: int = 2
    """Encoder layers."""
    heads: int = 4
    """Attention heads."""
    feed_forward: int = 128
    """Width of the feed-forward block."""
    dropout: float = 0.0
    """Share of the activations dropped in training."""
    input_dropout: float = 0.0
    """Share of the item features dropped in training."""
    positional: Literal["fixed", "learned"] | None = None
    """Encoding of the first-stage rank."""
    output_activation: Literal["sigmoid", "tanh"] | None = None
    """What the score goes through."""
    levels: int = 1
    """Levels of relevance, for the loss ordinal only: one output each."""
    residual: float | None = None
    """Add this many times the first stage's cosine to the score; None: the score stands alone, as in the paper."""
    residual_learnable: bool = True
    """Whether that number is trained."""
    zero_init_output: bool = False
    """Start the output layer at zero: with --residual, training starts from the first stage's ranking."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "feed_forward", "levels"):
            at_least(f"--ranker.{name.replace('_', '-')}", getattr(self, name), 1)
        if self.width % self.heads:
            raise ConfigError(f"--ranker.width {self.width}: expected a multiple of --ranker.heads {self.heads}")


@dataclass(frozen=True)
class RefineConfig:
    """Adapters that refine the first stage inside the ranker, learned before it with an in-batch softmax."""

    members: int = 0
    """Pairs of adapters. The training images are divided among them: each learns from all but its share, and ranks that
    share's training lists; in use they are averaged. 0: none, else at least 2."""
    width: int = 256
    """Width of an adapter, x + B·gelu(A·x)."""
    dropout: float = 0.5
    """Share of an adapter's hidden values dropped in training."""
    noise: float = 0.0
    """Length of the Gaussian noise on the embeddings in training."""
    epochs: int = 8
    """Passes over all pairs of an image and a caption."""
    pairs: int = 500
    """Pairs of a step, each of which has the others for negatives."""
    learning_rate: float = 1e-3
    """Largest step size of AdamW: a rise to it, then a fall to 0, or with --refine.average none."""
    average: float = 0.0
    """Share of the steps, the last ones, whose matrices are averaged; the step size then stays at its largest. 0: the
    matrices of the last step are taken."""
    weight_decay: float = 0.05
    """Decoupled weight decay of the matrices."""
    scale: float = 20.0
    """What the cosines are multiplied by in the softmax."""
    bank: int = 1000
    """Training queries, of different images, that the hubness of a candidate is measured against."""
    neighbours: int = 10
    """How many of them, the most similar to the candidate, count."""
    hub: float = 0.5
    """Weight of the hubness, which is taken off the similarity; 0: not measured."""
    recall: float = 0.0
    """Weight of the memory beside the adapters: images are compared with those of the training captions that are most
    like a caption. 0: none."""
    memory: int = 20_000
    """Training captions that are remembered at most, each with its image; drawn by seed where there are more."""
    memory_neighbours: int = 150
    """How many of them, the most similar to a caption, count."""
    memory_scale: float = 10.0
    """What their cosines are multiplied by in the softmax that weighs them."""
    weigh: bool = False
    """Learn --refine.hub and --refine.recall, and the hubness of the memory apart from that of the adapters, from lists
    drawn for training; the values given are the start."""

    def __post_init__(self) -> None:
        for name, least in (("members", 0), ("bank", 0)):
            at_least(f"--refine.{name}", getattr(self, name), least)
        for name in ("width", "epochs", "pairs", "neighbours", "memory", "memory_neighbours"):
            at_least(f"--refine.{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("noise", "weight_decay", "hub", "recall", "memory_scale"):
            at_least(f"--refine.{name.replace('_', '-')}", getattr(self, name), 0)
        if self.members == 1:
            raise ConfigError("--refine.members 1: expected 0, or at least 2, for each learns from the others' shares")
        if not 0 <= self.average <= 1:
            raise ConfigError(f"--refine.average {self.average}: expected 0 to 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"--refine.dropout {self.dropout}: expected at least 0 and below 1")
        for name in ("learning_rate", "scale"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"--refine.{name.replace('_', '-')} {getattr(self, name)}: expected more than 0")


@dataclass(frozen=True)
class TrainConfig:
    """Train a ranker for every loss, direction and seed."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"embeddings", "lists", "output", "best", "workers", "stack", "overwrite"}
    )
    embeddings: Path = RUN / "embeddings"
    """Embedding store that the lists were mined from."""
    lists: Path = RUN / "lists"
    """Candidate lists."""
    output: Path = RUN / "rankers"
    """Directory of the trained rankers."""
    losses: tuple[str, ...] = ("lambdarank", "neural_ndcg", "listnet", "ranknet")
    """Ranking losses, one ranker each."""
    directions: tuple[Direction, ...] = DIRECTIONS
    """i2t (an image asks for captions), t2i (a caption asks for images)."""
    loss_parameters: tuple[str, ...] = ()
    """Parameters of losses, each as LOSS.PARAMETER=VALUE: neural_ndcg.temperature=0.5 lambda_loss.k=10."""
    best: Path | None = None
    """Settings for each direction and loss, as jobs/tune.py found them (best.json); they go before the flags."""
    seeds: tuple[int, ...] = (0, 1)
    """One ranker a seed: initial weights, data order and dropout follow from it."""
    ranker: RankerConfig = field(default_factory=RankerConfig)
    """The model."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """Its own first stage."""
    draw: Literal["fixed", "random-hard", "sub-gallery"] = "fixed"
    """Training lists: fixed (the mined ones), or drawn anew every epoch, one for each training image or one of its
    captions: random-hard (with the numbers of candidates and positives that the lists were mined with) or sub-gallery
    (the first stage's top --draw-top of a random gallery of --draw-images images, with the positives among them)."""
    draw_positives: Literal["mined", "found"] = "mined"
    """random-hard: positives as the lists were mined with, or found: a positive is listed where it is among the hardest
    candidates, so that no place in a list gives its answer away."""
    draw_images: int = 1000
    """sub-gallery: images of a gallery, about; the training images are divided into such galleries."""
    draw_top: int = 100
    """sub-gallery: items of a list."""
    epochs: int = 10
    """Passes over the training lists."""
    batch_size: int = 32
    """Lists a step, over all workers of a trial."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    schedule: Literal["constant", "one_cycle"] = "constant"
    """Learning-rate schedule."""
    gradient_clip: float | None = None
    """Largest norm of a step's gradient; None: not clipped."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the ranker; weights, losses and the optimiser are fp32 either way."""
    micro_batch: int = 0
    """Lists that go through the ranker at once; a step adds up the gradients of several. 0: all of the step's."""
    validate_every: int = 1
    """Epochs between validations, after each of which the state is saved."""
    validate_every_steps: int | None = None
    """Steps between validations, instead of epochs."""
    validate_start: bool = False
    """Validate before the first step too: with --ranker.residual and --ranker.zero-init-output, what is kept then ranks
    the validation lists no worse than its first stage."""
    patience: int | None = None
    """Stop after this many validations without a better one; None: train all epochs."""
    workers: int = 0
    """Training processes; 0: one a GPU, or one a core."""
    workers_per_trial: int = 1
    """How many of them train one ranker together (DDP); the rest train other rankers meanwhile."""
    stack: Literal["auto", "on", "off"] = "auto"
    """Train the losses and seeds of a direction as one stacked model in each process; auto: on a GPU."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "workers_per_trial", "validate_every", "validate_every_steps", "patience",
                     "draw_images", "draw_top"):  # fmt: skip
            if getattr(self, name) is not None:
                at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("workers", "micro_batch", "weight_decay"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        if self.stack == "on" and self.workers_per_trial > 1:
            raise ConfigError(f"--stack on: trains in one process; --workers-per-trial is {self.workers_per_trial}")
        if self.refine.members and self.draw == "fixed":
            raise ConfigError(
                "--refine.members: each ranks lists of images that it has not learned from, which fixed lists are not; "
                "expected --draw random-hard or sub-gallery"
            )
        if self.learning_rate <= 0:
            raise ConfigError(f"--learning-rate {self.learning_rate}: expected more than 0")
        for name in ("losses", "directions", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"--{name} {' '.join(map(str, values))}: expected one or more, each once")
        at_least("--seeds", min(self.seeds), 0)
        if self.workers and self.workers % self.workers_per_trial:
            raise ConfigError(
                f"--workers {self.workers}: expected a multiple of --workers-per-trial {self.workers_per_trial}"
            )
