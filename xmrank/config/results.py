"""Configuration of evaluation and report."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from xmrank.config.base import RUN, at_least
from xmrank.errors import ConfigError

TrecFiles = Literal["gzip", "plain", "none"]


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
    top_n: tuple[int, ...] = (100,)
    """On the full gallery, rankers re-rank the first stage's this many; several numbers give quality over N."""
    galleries: tuple[str, ...] = ()
    """Galleries beside the full one, of the first images of the reported split: `1000` is one of 1,000 images, `5x1000`
    five of them one after another, averaged over all their queries. COCO's protocols 1K, 5-fold 1K and 5K are
    `1000 5x1000 5000`."""
    trec: TrecFiles = "gzip"
    """How the rankings are also written as TREC run and qrels files, which ir_measures and ranx read."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        if not self.top_n:
            raise ConfigError("--top-n: expected one or more numbers")
        for n in self.top_n:
            at_least("--top-n", n, 1)
        for flag, values in (("--top-n", self.top_n), ("--galleries", self.galleries)):
            if len(set(values)) < len(values):
                raise ConfigError(f"{flag} {' '.join(map(str, values))}: the same twice")
        for text in self.galleries:
            folds_of(text)


def folds_of(gallery: str) -> tuple[int, int]:
    """How many galleries of how many images one of ``--galleries`` means.

    Raises:
        ConfigError: neither a number nor two with an x between them.
    """
    found = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", gallery)
    if not found:
        raise ConfigError(f"--galleries {gallery}: expected a number of images, or folds times images such as 5x1000")
    return int(found[1] or 1), int(found[2])


@dataclass(frozen=True)
class JudgeConfig:
    """Measure the rankings of an evaluation by more judgements than one caption's own image."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"embeddings", "results", "qrels", "output", "overwrite"})
    embeddings: Path = RUN / "embeddings"
    """Embedding store that was ranked."""
    results: Path = RUN / "evaluation"
    """Directory of evaluate.py or baselines.py; its rankings of galleries are judged."""
    qrels: Path | None = None
    """Judgements as a TREC qrels file (query 0 item grade), as of ECCV Caption or CxC: gives hit@k, recall@k, MRR,
    NDCG@10 by the grades, mAP@R and R-precision."""
    least_grade: float = 1.0
    """Judgements of at least this grade are positives; lower ones count for nothing."""
    plausible: bool = False
    """Also PMRP: an item is a plausible match when its image's class labels differ from those of the query's in at
    most 0, 1 or 2 classes."""
    output: Path = RUN / "judged"
    """Directory of the per-query results."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        if self.qrels is None and not self.plausible:
            raise ConfigError("--qrels: expected a file of judgements, or --plausible, or both")
        if self.least_grade <= 0:
            raise ConfigError(f"--least-grade {self.least_grade:g}: expected more than 0")


@dataclass(frozen=True)
class ReportConfig:
    """Make the table and the page of an evaluation."""

    PLACES: ClassVar[frozenset[str]] = frozenset(
        {"embeddings", "rankers", "evaluation", "search", "baselines", "output", "overwrite"}
    )
    embeddings: Path = RUN / "embeddings"
    """Embedding store (captions and the places of the images)."""
    rankers: Path = RUN / "rankers"
    """Trained rankers (learning curves)."""
    evaluation: Path = RUN / "evaluation"
    """Per-query results."""
    search: Path | None = None
    """Search that chose the rankers' settings (tune.py's search directory): shows which settings mattered."""
    baselines: Path | None = None
    """Baselines on the same lists (jobs/baselines.py); their rows stand between the first stage and the rankers."""
    output: Path = RUN / "report"
    """Directory of the report."""
    title: str = "xmrank report"
    """Heading of the page."""
    examples: int = 12
    """Example queries shown with their pictures."""
    draws: int = 10_000
    """Of the significance tests and of their intervals."""
    seed: int = 0
    """Of these draws."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        at_least("--examples", self.examples, 0)
        at_least("--draws", self.draws, 1)
        at_least("--seed", self.seed, 0)
