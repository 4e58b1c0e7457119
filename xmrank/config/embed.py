"""Configuration of data sets and their embedding."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from xmrank.config.common import RUN, at_least
from xmrank.runtime.errors import ConfigError


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

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"output", "annotations", "images", "workers", "overwrite", "reuse"}
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
    compile: bool = False
    """Compile the encoder (torch.compile); pays on large data with a large model."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored embeddings."""
    batch_size: int = 0
    """Items the encoder takes at once; 0: as many as a GPU's memory holds, a shard at most, or 64 on a CPU. Part of the
    result's last digits, so what the first run finds is recorded, and a resumed run keeps it."""
    shard_size: int = 512
    """Items of one task; what an interrupted run loses at most, for each worker."""
    reuse: Path | None = None
    """A finished store of the same encoder: embeddings of images with the same bytes, and of the same captions, are
    taken over from it. They equal new ones up to their last digit, which depends on the batch they are made in."""
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
        for name in ("shard_size", "threads"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("batch_size", "workers"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        if not 0 <= self.max_broken <= 1:
            raise ConfigError(f"--max-broken {self.max_broken}: expected a share between 0 and 1")
        imports = {"--import-images": self.import_images, "--import-texts": self.import_texts}
        imports["--import-ids"] = self.import_ids
        missing = [flag for flag, value in imports.items() if value is None]
        if 0 < len(missing) < len(imports):
            raise ConfigError(f"{', '.join(missing)}: an import needs --import-images, --import-texts and --import-ids")
        if self.import_clip_retrieval and not missing:
            raise ConfigError("--import-clip-retrieval and --import-images: expected one of them")
        if self.reuse and self.imports:
            raise ConfigError(f"--reuse {self.reuse}: an import encodes nothing that could be reused")
        if not 0 <= self.held_out < 0.5:
            raise ConfigError(f"--held-out {self.held_out}: expected a share of at least 0, below 0.5")

    @property
    def imports(self) -> bool:
        """Whether existing embeddings are imported instead of made."""
        return self.import_images is not None or self.import_clip_retrieval is not None
