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
    positives: Literal["one", "all", "retrieved"] = "one"
    """i2t: one caption of the image, drawn by seed, or all of them; found: those that the first stage finds. With top-k
    the list is then the first --hard-negatives of the gallery as they are; with random-hard one positive is a candidate
    among the random ones, and the list is the first --hard-negatives + 1 of them: one cannot tell it by where it
    stands. Queries whose list has no positive are not counted."""
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
    relevance: Literal["binary", "labels", "captions"] = "binary"
    """Labels of the candidates: binary, graded by the class labels that two images share, or graded by the likeness of
    captions (Listwise ITR), in the lists that train only: all of these are above 0, so that every item would be found.
    """
    relevance_texts: Path | None = None
    """--relevance captions: text embeddings to compare, .npy, a row for every caption of the store; none: the store's
    own."""
    train_split: str = "train"
    """Split that rankers train on."""
    validation_split: str = "auto"
    """Split that chooses the best epoch; auto: val when a test split is there, else a tenth of the training images."""
    test_split: str = "auto"
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
        if self.relevance_texts and self.relevance != "captions":
            raise ConfigError(f"--relevance-texts: expected with --relevance captions, not {self.relevance}")
        if self.positives == "retrieved" and (self.strategy == "mixed" or self.leaves_out):
            raise ConfigError(
                "--positives retrieved: the list is the first stage's own; expected --strategy top-k or random-hard, "
                "and neither --positive-margin nor --duplicate-cosine"
            )

    @property
    def leaves_out(self) -> bool:
        """Whether negatives that may be positives are left out."""
        return self.positive_margin is not None or self.duplicate_cosine is not None
