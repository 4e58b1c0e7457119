"""Configuration of data sets and their embedding."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from xmrank.config.choices import FLAT
from xmrank.config.common import RUN, at_least
from xmrank.datasets.reader_settings import ImportSettings, ReaderSettings, ScenesSettings
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class EmbedConfig:
    """Embed the images and captions of a data set, or import embeddings that exist."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset({"output", "workers", "overwrite", "reuse"})
    output: Path = RUN / "embeddings"
    """Directory of the embedding store."""
    dataset: Annotated[ReaderSettings | ImportSettings, FLAT] = field(default_factory=ScenesSettings)
    """Format of the data set (scenes: generated), or of embeddings to import."""
    model: str = "xmrank-tiny"
    """A model of open_clip, or xmrank-tiny, which comes with xmrank."""
    pretrained: str | None = None
    """Weights: a tag that open_clip knows for the model, a local checkpoint (.safetensors, or .pt, read as weights
    only), or none for an untrained model. xmrank-tiny needs none of these."""
    init_seed: int | None = None
    """Seed of an untrained model (--pretrained none)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the encoder's computations."""
    compile: bool = False
    """Compile the encoder (torch.compile); worth it for large data and a large model."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored embeddings."""
    batch_size: int = 0
    """Items per batch; 0: as many as fit into a GPU's memory, at most a shard, or 64 on a CPU. It affects the last
    digits of the embeddings, so the first run records it, and a resumed run keeps it."""
    shard_size: int = 512
    """Items per task: the most that an interrupted run loses, for each worker."""
    reuse: Path | None = None
    """A finished store of the same encoder. Embeddings of images with the same bytes, and of the same captions, are
    copied from it. They equal new ones except for the last digit, which depends on the batch."""
    threads: int = 1
    """CPU threads per worker."""
    max_broken: float = 0.01
    """Fraction of the images, and of the captions, that may be missing, empty or unreadable. They are left out and
    listed in the manifest."""
    workers: int = 0
    """Encoder processes; 0: one per GPU, or one per core."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""

    def __post_init__(self) -> None:
        for name in ("shard_size", "threads"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("batch_size", "workers"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        if not 0 <= self.max_broken <= 1:
            raise ConfigError(f"--max-broken {self.max_broken}: expected a fraction between 0 and 1")
        # Existing vectors are copied as they are.
        if self.reuse and self.imports:
            raise ConfigError(f"--reuse {self.reuse}: an import encodes nothing that could be reused")

    @property
    def imports(self) -> bool:
        """Whether existing embeddings are imported instead of made."""
        return isinstance(self.dataset, ImportSettings)
