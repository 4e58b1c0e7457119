"""Configuration of data sets and their embedding."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from xmrank.config.choices import FLAT
from xmrank.config.common import RUN, at_least
from xmrank.datasets.reader_settings import ArraySettings, ImportSettings, ReaderSettings, ScenesSettings
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class TokenSettings:
    """Which tokens are kept of every image and caption, and how.

    Attributes:
        image_layer, text_layer: counted from the end; 0: the last one.
        grid: most rows and columns of an image's tokens; 0: all.
        width: most numbers in a token; 0: all.
        dtype: number format.
        seed: of the sample that the PCA is fitted on.
    """

    image_layer: int
    text_layer: int
    grid: int
    width: int
    dtype: str
    seed: int


@dataclass(frozen=True)
class EmbedConfig:
    """Embed the images and captions of a data set, or import embeddings that exist."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset({"output", "workers", "overwrite", "reuse", "inspect"})
    TOKEN_FIELDS: ClassVar[tuple[str, ...]] = (
        "image_token_layer",
        "text_token_layer",
        "token_grid",
        "token_width",
        "token_dtype",
        "token_seed",
    )
    STORED_FIELDS: ClassVar[tuple[str, ...]] = ("token_width", "token_dtype", "token_seed")
    output: Path = RUN / "embeddings"
    """Directory of the embedding store."""
    dataset: Annotated[ReaderSettings | ImportSettings, FLAT] = field(default_factory=ScenesSettings)
    """Format of the data set (scenes: generated), or of embeddings to import."""
    model: str = "xmrank-tiny"
    """A model of open_clip (ViT-B-32), local-dir:PATH of a folder with open_clip_config.json and weights,
    hf-hub:ORG/NAME of one on Hugging Face's hub, a model's configuration (PATH.json), or xmrank-tiny, which comes with
    xmrank."""
    pretrained: str | None = None
    """Weights: a tag that open_clip knows for the model, a local checkpoint (.safetensors, or .pt, read as weights
    only), or none for an untrained model. xmrank-tiny, local-dir: and hf-hub: need none of these."""
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
    tokens: bool = False
    """Keep, beside the embeddings, the tokens of every image and caption, for rankers that compare them."""
    image_token_layer: int = 0
    """Layer of the image tokens, counted from the end: 0 is the last one, 1 the one before. A ResNet's layers are its
    stages."""
    text_token_layer: int = 0
    """Layer of the text tokens, counted from the end; as many as the text encoder has layers: its word embeddings."""
    token_grid: int = 8
    """Average the map of image tokens to at most this many rows and columns; 0: keep it as it is."""
    token_width: int = 128
    """Project tokens that are wider to this many numbers, by PCA on a sample of the training split; 0: do not."""
    token_dtype: Literal["float16", "int8"] = "float16"  # noqa: S105
    """Number format of the stored tokens; int8 has a scale for each token."""
    token_seed: int = 0
    """Seed of the sample for the PCA."""
    max_broken: float = 0.01
    """Fraction of the images, and of the captions, that may be missing, empty or unreadable. They are left out and
    listed in the manifest."""
    workers: int = 0
    """Encoder processes; 0: one per GPU, or one per core."""
    inspect: bool = False
    """Only read the data set: print what is in it, what is left out, and ten images with their captions, and write a
    page with the pictures beside the output. Needs no model."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""

    def __post_init__(self) -> None:
        for name in ("shard_size", "threads"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("batch_size", "workers", *self.TOKEN_FIELDS[:4], "token_seed"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        if not 0 <= self.max_broken <= 1:
            raise ConfigError(f"--max-broken {self.max_broken}: expected a fraction between 0 and 1")
        if self.inspect and self.imports:
            raise ConfigError("--inspect: shows images and captions; an import has embeddings only")
        # Existing vectors are copied as they are.
        if self.reuse and self.imports:
            raise ConfigError(f"--reuse {self.reuse}: an import encodes nothing that could be reused")
        if self.reuse and self.tokens:
            raise ConfigError(f"--reuse {self.reuse}: copies embeddings, not tokens; leave out --reuse or --tokens")
        if self.tokens and self.imports:
            raise ConfigError("--tokens: an import encodes nothing; give --import-image-tokens or --import-regions")
        self._refuse_idle_token_settings()

    def _refuse_idle_token_settings(self) -> None:
        """Raise ConfigError for a token setting that nothing would use."""
        # Imported tokens have a layer and a grid already.
        used = self.TOKEN_FIELDS if self.tokens else self.STORED_FIELDS if self.imports_tokens else ()
        for name in self.TOKEN_FIELDS:
            if name not in used and getattr(self, name) != getattr(type(self), name):
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: only with --tokens")

    @property
    def imports_tokens(self) -> bool:
        """Whether existing tokens are imported."""
        return isinstance(self.dataset, ArraySettings) and self.dataset.imports_tokens

    @property
    def token_settings(self) -> TokenSettings | None:
        """The settings of the tokens; None: there are none."""
        if not self.tokens and not self.imports_tokens:
            return None
        return TokenSettings(*(getattr(self, name) for name in self.TOKEN_FIELDS))

    @property
    def imports(self) -> bool:
        """Whether existing embeddings are imported instead of made."""
        return isinstance(self.dataset, ImportSettings)
