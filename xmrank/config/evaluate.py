"""Configuration of the evaluation."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from xmrank.config.common import RUN, at_least
from xmrank.runtime.errors import ConfigError

TrecFiles = Literal["gzip", "plain", "none"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate the first stage and the rankers on the same lists and galleries."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset({"embeddings", "lists", "rankers", "output", "overwrite"})
    embeddings: Path = RUN / "embeddings"
    """Embedding store."""
    lists: Path = RUN / "lists"
    """Candidate lists."""
    rankers: Path = RUN / "rankers"
    """Trained rankers."""
    output: Path = RUN / "evaluation"
    """Directory of the per-query results."""
    top_n: tuple[int, ...] = (100,)
    """Re-ranking depths on the full gallery: how many candidates of the first stage a ranker re-ranks. Several numbers
    give quality as a function of the depth."""
    galleries: tuple[str, ...] = ()
    """Galleries besides the full one, from the first images of the test split: `1000` is one gallery of 1,000 images,
    `5x1000` five consecutive ones whose queries are averaged. COCO's protocols 1K, 5-fold 1K and 5K are
    `1000 5x1000 5000`."""
    trec: TrecFiles = "gzip"
    """Also write rankings as TREC run and qrels files, which ir_measures and ranx read: gzip, plain, or none."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""

    def __post_init__(self) -> None:
        if not self.top_n:
            raise ConfigError("--top-n: expected one or more numbers")
        for n in self.top_n:
            at_least("--top-n", n, 1)
        for flag, values in (("--top-n", self.top_n), ("--galleries", self.galleries)):
            if len(set(values)) < len(values):
                raise ConfigError(f"{flag} {' '.join(map(str, values))}: expected each once")
        # Parsed here only to refuse wrong entries before any work.
        for text in self.galleries:
            folds_of(text)


def folds_of(gallery: str) -> tuple[int, int]:
    """The number of galleries, and of images in each, of an entry of ``--galleries``.

    Raises:
        ConfigError: neither a number nor two with an x between them.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", gallery)
    if not match:
        raise ConfigError(f"--galleries {gallery}: expected a number of images, or folds times images such as 5x1000")
    return int(match[1] or 1), int(match[2])
