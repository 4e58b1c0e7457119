"""Configuration of the candidate lists."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from xmrank.config.common import RUN, at_least
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class MineConfig:
    """Mine a list of hard candidates for every query."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"embeddings", "output", "relevance_texts", "workers", "overwrite"}
    )
    embeddings: Path = RUN / "embeddings"
    """Embedding store."""
    output: Path = RUN / "lists"
    """Directory of the candidate lists."""
    strategy: Literal["random-hard", "top-k", "mixed"] = "random-hard"
    """Source of the negatives: random-hard (the paper's: the most similar of some random candidates), top-k (the most
    similar of the whole gallery), mixed (the most similar of the whole gallery, and some random ones)."""
    random_candidates: int = 200
    """random-hard: number of random candidates per query, of which the most similar are kept."""
    hard_negatives: int = 50
    """Number of negatives per list, the most similar ones."""
    random_negatives: int = 25
    """mixed: number of additional random negatives."""
    positives: Literal["one", "all", "retrieved"] = "one"
    """i2t: one caption of the image, chosen at random, or all of them. retrieved: only positives that the first stage
    retrieves. With top-k, the list is then the first --hard-negatives of the gallery. With random-hard, one positive is
    among the random candidates and the list is the first --hard-negatives + 1 of them, so its position reveals nothing.
    Queries whose list has no positive are not counted."""
    captions: Literal["one", "all"] = "one"
    """t2i: one caption per image, chosen at random, is a query, or all of them are."""
    positive_margin: float | None = None
    """Leave out negatives that are less than this below the most similar positive: they are likely positives."""
    duplicate_cosine: float | None = None
    """Leave out negatives whose cosine with one of the query's own items is at least this."""
    index: Literal["flat", "ivf", "hnsw", "ivfpq"] = "flat"
    """top-k, mixed: exact search (flat) or an approximate FAISS index (ivf, hnsw; ivfpq: compressed, for galleries of
    many millions). On a GPU if FAISS supports it (not hnsw, not ivfpq)."""
    probes: int = 32
    """ivf, ivfpq: number of inverted lists that are searched."""
    ef_search: int = 128
    """hnsw: breadth of the search."""
    relevance: Literal["binary", "labels", "captions"] = "binary"
    """Labels of the candidates: binary, graded by the class labels that two images share (labels), or graded by the
    similarity of captions (captions, as in Listwise ITR). The last only in the training lists, since all its labels are
    above 0 and would make every item a positive."""
    relevance_texts: Path | None = None
    """--relevance captions: text embeddings to compare, .npy, one row per caption of the store; None: the store's
    own."""
    train_split: str = "train"
    """Split that rankers train on."""
    validation_split: str = "auto"
    """Split that chooses the best epoch; auto: val if there is a test split, otherwise a tenth of the training
    images."""
    test_split: str = "auto"
    """Split that results are reported on; auto: test if there is one, otherwise val."""
    seed: int = 0
    """Seed of all random choices."""
    workers: int = 0
    """Parallel tasks; 0: one per core. The lists do not depend on it."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""

    def __post_init__(self) -> None:
        at_least("--hard-negatives", self.hard_negatives, 1)
        at_least("--seed", self.seed, 0)
        at_least("--workers", self.workers, 0)
        for name in ("random_negatives", "probes", "ef_search"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        # The hardest are a part of the random candidates.
        if self.strategy == "random-hard" and self.hard_negatives > self.random_candidates:
            raise ConfigError(
                f"--hard-negatives {self.hard_negatives} exceeds --random-candidates {self.random_candidates}"
            )
        if self.relevance_texts and self.relevance != "captions":
            raise ConfigError(f"--relevance-texts: expected with --relevance captions, not {self.relevance}")
        # These settings choose negatives by the positive, which then would not be retrieved like any other item.
        if self.positives == "retrieved" and (self.strategy == "mixed" or self.leaves_out):
            raise ConfigError(
                "--positives retrieved: the list is the first stage's own; expected --strategy top-k or random-hard, "
                "and neither --positive-margin nor --duplicate-cosine"
            )

    @property
    def leaves_out(self) -> bool:
        """Whether negatives that may be positives are left out."""
        return self.positive_margin is not None or self.duplicate_cosine is not None
