"""Configuration of the text embeddings of a sentence-transformers model."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xmrank.config.common import RUN, at_least


@dataclass(frozen=True)
class SentencesConfig:
    """Embed the captions of a store with a model of sentence-transformers."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset({"embeddings", "output", "batch_size", "overwrite"})
    embeddings: Path = RUN / "embeddings"
    """Embedding store whose captions are embedded; it must contain their texts."""
    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Model of sentence-transformers: a name on the hub, owner/name[@revision], or a local folder. The weights must be
    safetensors, and code that comes with the model is never run."""
    output: Path = RUN / "sentences"
    """Directory of texts.npy, [captions, d], unit length, for --relevance-texts."""
    batch_size: int = 256
    """Captions per batch."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""

    def __post_init__(self) -> None:
        at_least("--batch-size", self.batch_size, 1)
