"""The configuration of every stage: frozen dataclasses whose attribute docstrings are the ``--help`` texts."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from xmrank.errors import ConfigError

Direction = Literal["i2t", "t2i"]
DIRECTIONS: tuple[Direction, ...] = ("i2t", "t2i")
RUN = Path("runs/default")


def semantic(config: Any) -> dict[str, Any]:
    """What of a configuration decides the output: no paths, worker counts or switches (``config.PLACES``)."""
    values = dataclasses.asdict(config)
    for name in config.PLACES:
        del values[name]
    return values


def at_least(flag: str, value: float, least: float) -> None:
    """Raise ConfigError when a flag's value is below its least."""
    if value < least:
        raise ConfigError(f"{flag} {value}: expected at least {least}")


@dataclass(frozen=True)
class ScenesConfig:
    """The generated data set."""

    train: int = 2000
    """Images of the training split."""
    val: int = 400
    """Images of the validation split."""
    test: int = 400
    """Images of the test split."""
    seed: int = 0
    """Seed of the scenes; another seed gives other images and captions."""
    folder: Path = Path("data")
    """Folder under which the generated images and captions are kept."""

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            at_least(f"--scenes.{name}", getattr(self, name), 0)


@dataclass(frozen=True)
class ColumnsConfig:
    """csv, huggingface: names of the table's columns where they are not the usual (caption, caption_0, …)."""

    image: str | None = None
    """Column of the images: paths, or the images themselves."""
    caption: tuple[str, ...] = ()
    """Columns of the captions, one or more."""
    id: str | None = None
    """Column of the images' ids; rows with the same one are captions of one image."""


@dataclass(frozen=True)
class EmbedConfig:
    """Embed the images and captions of a data set, or import embeddings that exist."""

    PLACES: ClassVar[frozenset[str]] = frozenset(
        {"output", "annotations", "images", "workers", "overwrite"}
        | {"import_images", "import_texts", "import_ids", "import_clip_retrieval"}
    )
    output: Path = RUN / "embeddings"
    """Directory of the embedding store."""
    dataset: str = "scenes"
    """Reader of the data set: scenes (generated on the spot), karpathy or coco (JSON and images), csv (a table and
    images), folder (images with .txt files beside them), huggingface (parquet or an image folder), webdataset (tars).
    """
    annotations: Path | None = None
    """karpathy, coco: the JSON file with the captions; csv: the table, separated by commas or tabs; coco, csv: or a
    pattern (captions_*2017.json). A local path or a URI (s3://…), as for --images."""
    images: Path | None = None
    """The folder of the images; huggingface: a folder, or a name on the hub (owner/name); webdataset: a tar, a folder
    of tars, or a pattern (pairs-{000..099}.tar)."""
    split_field: str = "split"
    """Field or column of the annotations (or of --import-ids) that names an item's split."""
    held_out: float = 0.1
    """Data that names no splits: share of the images that become val, and as many test, by the hash of their ids."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """csv, huggingface: names of columns."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """scenes: sizes and seed."""
    model: str = "xmrank-tiny"
    """Any of open_clip's models, or xmrank-tiny, which comes with xmrank."""
    pretrained: str | None = None
    """Weights: a tag that open_clip knows for the model, a local checkpoint (.safetensors, or .pt read as weights
    only), or none for an untrained model; xmrank-tiny needs nothing."""
    init_seed: int | None = None
    """Seed of an untrained model (--pretrained none)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the encoder."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored embeddings."""
    batch_size: int = 64
    """Items the encoder takes at once; part of the result's last digits, so a resumed run keeps it."""
    shard_size: int = 512
    """Items of one task; what an interrupted run loses at most, for each worker."""
    threads: int = 1
    """CPU threads of one worker."""
    max_broken: float = 0.01
    """Share of the images, and of the captions, that may be missing, empty or unreadable; they are left out and listed
    in the manifest."""
    import_images: Path | None = None
    """Image embeddings to import: .npy, [images, d]."""
    import_texts: Path | None = None
    """Caption embeddings to import: .npy, [captions, d]."""
    import_ids: Path | None = None
    """JSON with image_ids and caption_ids in row order, the split field, and caption_image (the image row of every
    caption; without it, captions stand image by image, five each)."""
    import_clip_retrieval: Path | None = None
    """Folder that clip-retrieval wrote: img_emb, text_emb and metadata."""
    workers: int = 0
    """Encoder processes; 0: one a GPU, or one a core."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_size", "threads"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        at_least("--workers", self.workers, 0)
        if not 0 <= self.max_broken <= 1:
            raise ConfigError(f"--max-broken {self.max_broken}: expected a share between 0 and 1")
        imports = {"--import-images": self.import_images, "--import-texts": self.import_texts}
        imports["--import-ids"] = self.import_ids
        missing = [flag for flag, value in imports.items() if value is None]
        if 0 < len(missing) < len(imports):
            raise ConfigError(f"{', '.join(missing)}: an import needs --import-images, --import-texts and --import-ids")
        if self.import_clip_retrieval and not missing:
            raise ConfigError("--import-clip-retrieval and --import-images: expected one of them")
        if not 0 <= self.held_out < 0.5:
            raise ConfigError(f"--held-out {self.held_out}: expected a share of at least 0, below 0.5")

    @property
    def imports(self) -> bool:
        """Whether existing embeddings are imported instead of made."""
        return self.import_images is not None or self.import_clip_retrieval is not None


@dataclass(frozen=True)
class MineConfig:
    """Mine a list of hard candidates for every query."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"embeddings", "output", "workers", "overwrite"})
    embeddings: Path = RUN / "embeddings"
    """Embedding store to mine from."""
    output: Path = RUN / "lists"
    """Directory of the candidate lists."""
    strategy: Literal["random-hard", "top-k", "mixed"] = "random-hard"
    """Where negatives come from: random-hard (the paper's: the hardest of a number of random candidates), top-k (the
    hardest of the whole gallery), mixed (the hardest of the whole gallery, and others at random)."""
    random_candidates: int = 200
    """random-hard: candidates drawn at random for each query, before the hardest are kept."""
    hard_negatives: int = 50
    """How many negatives, the most similar to the query, enter the list."""
    random_negatives: int = 25
    """mixed: further negatives, drawn at random."""
    positives: Literal["one", "all", "found"] = "one"
    """i2t: one caption of the image, drawn by seed, or all of them; found (top-k only): the list is the first stage's
    top --hard-negatives as it is, with the positives that are among them."""
    captions: Literal["one", "all"] = "one"
    """t2i: one caption an image asks, drawn by seed, or all of them do."""
    positive_margin: float | None = None
    """Leave out negatives less than this below the most similar positive: they are likely positives."""
    duplicate_cosine: float | None = None
    """Leave out negatives whose cosine with one of the query's own items is at least this."""
    index: Literal["flat", "ivf", "hnsw"] = "flat"
    """top-k, mixed: exact search, or an approximate index of FAISS; on a GPU where FAISS has one (not hnsw)."""
    probes: int = 32
    """ivf: inverted lists that are searched."""
    ef_search: int = 128
    """hnsw: breadth of the search."""
    relevance: Literal["binary", "labels"] = "binary"
    """Labels of the candidates: binary, or graded by the class labels that two images share."""
    train_split: str = "train"
    """Split that rankers train on."""
    selection_split: str = "auto"
    """Split that chooses the best epoch; auto: val when a test split is there, else a tenth of the training images."""
    report_split: str = "auto"
    """Split that the results are reported on; auto: test when it is there, else val."""
    seed: int = 0
    """Seed of all draws."""
    workers: int = 0
    """Parallel tasks; 0: one a core. The lists do not depend on it."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        at_least("--hard-negatives", self.hard_negatives, 1)
        at_least("--seed", self.seed, 0)
        at_least("--workers", self.workers, 0)
        for name in ("random_negatives", "probes", "ef_search"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        if self.strategy == "random-hard" and self.hard_negatives > self.random_candidates:
            raise ConfigError(
                f"--hard-negatives {self.hard_negatives} exceeds --random-candidates {self.random_candidates}"
            )
        if self.positives == "found" and (self.strategy != "top-k" or self.leaves_out):
            raise ConfigError(
                "--positives found: the list is the first stage's own; expected --strategy top-k, and neither "
                "--positive-margin nor --duplicate-cosine"
            )

    @property
    def leaves_out(self) -> bool:
        """Whether negatives that may be positives are left out."""
        return self.positive_margin is not None or self.duplicate_cosine is not None


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
class TrainConfig:
    """Train a ranker for every loss, direction and seed."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"embeddings", "lists", "output", "workers", "stack", "overwrite"})
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
    seeds: tuple[int, ...] = (0, 1)
    """One ranker a seed: initial weights, data order and dropout follow from it."""
    ranker: RankerConfig = field(default_factory=RankerConfig)
    """The model."""
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
        for name in ("epochs", "batch_size", "workers_per_trial", "validate_every", "validate_every_steps", "patience"):
            if getattr(self, name) is not None:
                at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("workers", "micro_batch", "weight_decay"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        if self.stack == "on" and self.workers_per_trial > 1:
            raise ConfigError(f"--stack on: trains in one process; --workers-per-trial is {self.workers_per_trial}")
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


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate the first stage and the rankers on the same lists and galleries."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"embeddings", "lists", "rankers", "output", "overwrite"})
    embeddings: Path = RUN / "embeddings"
    """Embedding store."""
    lists: Path = RUN / "lists"
    """Candidate lists."""
    rankers: Path = RUN / "rankers"
    """Trained rankers."""
    output: Path = RUN / "evaluation"
    """Directory of the per-query results."""
    top_n: int = 100
    """On the full gallery, rankers re-rank the first stage's this many."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        at_least("--top-n", self.top_n, 1)


@dataclass(frozen=True)
class ReportConfig:
    """Make the table and the page of an evaluation."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"embeddings", "rankers", "evaluation", "output", "overwrite"})
    embeddings: Path = RUN / "embeddings"
    """Embedding store (captions and the places of the images)."""
    rankers: Path = RUN / "rankers"
    """Trained rankers (learning curves)."""
    evaluation: Path = RUN / "evaluation"
    """Per-query results."""
    output: Path = RUN / "report"
    """Directory of the report."""
    title: str = "xmrank report"
    """Heading of the page."""
    examples: int = 12
    """Example queries shown with their pictures."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        at_least("--examples", self.examples, 0)


@dataclass(frozen=True)
class ExperimentConfig:
    """All stages, one after another: embed, mine, train, evaluate, report."""

    output: Path = RUN
    """Directory of the whole run; each stage gets a directory in it."""
    overwrite: bool = False
    """Empty the directories of all stages first."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    """The first stage."""
    mine: MineConfig = field(default_factory=MineConfig)
    """Candidate lists."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Rankers."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Results."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """Table and page."""


@dataclass(frozen=True)
class TrainEncoderConfig:
    """Train xmrank-tiny, or another of open_clip's models from scratch, on generated scenes of a seed of their own."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"output", "workers", "overwrite"})
    output: Path = Path("runs/encoder")
    """Directory of the trained weights."""
    model: str = "xmrank-tiny"
    """The model's configuration: xmrank-tiny or a name that open_clip knows."""
    images: int = 24000
    """Scenes to train on, five captions each."""
    held_out: int = 400
    """Other scenes of the same seed, on which hit@1 is measured after every epoch."""
    data_seed: int = 1000003
    """Seed of these scenes; never that of a data set that the encoder will be measured on."""
    seed: int = 0
    """Seed of the initial weights, the data order and the augmentation."""
    epochs: int = 5
    """Passes over the scenes; an image meets all its captions in each."""
    batch_size: int = 128
    """Images of a step, over all workers; the captions of the others are negatives."""
    learning_rate: float = 1e-3
    """Highest step size of AdamW."""
    warmup: float = 0.05
    """Share of the steps in which the step size rises; it falls as a cosine afterwards."""
    weight_decay: float = 0.1
    """Decoupled weight decay of the matrices."""
    shift: int = 3
    """Augmentation: a step's images move by up to this many pixels. Never mirrored: captions say left and right."""
    autocast: bool = True
    """Compute the image side in bfloat16."""
    workers: int = 0
    """Training processes; 0: one a GPU, or one a core. An interrupted run is resumed with the same number."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        for name in ("images", "held_out", "epochs", "batch_size"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("shift", "workers", "weight_decay"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        if self.batch_size > self.images:
            raise ConfigError(f"--batch-size {self.batch_size} exceeds --images {self.images}")
        if self.learning_rate <= 0:
            raise ConfigError(f"--learning-rate {self.learning_rate}: expected more than 0")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"--warmup {self.warmup}: expected a share between 0 and 1")
