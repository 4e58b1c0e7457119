"""Configuration of data sets and their embedding."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from xmrank.config.choices import FLAT
from xmrank.config.common import RUN, at_least
from xmrank.datasets.settings import ImportSettings, ReaderSettings, ScenesSettings
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class EmbedConfig:
    """Embed the images and captions of a data set, or import embeddings that exist."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset({"output", "workers", "overwrite", "reuse"})
    output: Path = RUN / "embeddings"
    """Directory of the embedding store."""
    dataset: Annotated[ReaderSettings | ImportSettings, FLAT] = field(default_factory=ScenesSettings)
    """Format of the data set (scenes: generated on the spot), or of the embeddings that are imported."""
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
    """Fraction of the images, and of the captions, that may be missing, empty or unreadable; they are left out and
    listed in the manifest."""
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
            raise ConfigError(f"--max-broken {self.max_broken}: expected a fraction between 0 and 1")
        if self.reuse and self.imports:
            raise ConfigError(f"--reuse {self.reuse}: an import encodes nothing that could be reused")

    @property
    def imports(self) -> bool:
        """Whether existing embeddings are imported instead of made."""
        return isinstance(self.dataset, ImportSettings)
