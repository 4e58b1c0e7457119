"""Configuration of the text embeddings of a sentence-transformers model."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xmrank.config.common import RUN, at_least


@dataclass(frozen=True)
class SentencesConfig:
    """Embed the captions of a store with a model of sentence-transformers."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset({"embeddings", "output", "batch_size", "device", "overwrite"})
    embeddings: Path = RUN / "embeddings"
    """Embedding store whose captions are embedded; it must hold their texts."""
    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Model of sentence-transformers: a hub name, owner/name[@revision], or a local folder. Its weights must be
    safetensors, and no code that comes with it is run."""
    output: Path = RUN / "sentences"
    """Directory of texts.npy: unit length, a row for every caption, for --relevance-texts."""
    batch_size: int = 256
    """Captions at a time."""
    device: str | None = None
    """Where the model runs, such as cuda or cpu; None: a GPU where there is one."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        at_least("--batch-size", self.batch_size, 1)
