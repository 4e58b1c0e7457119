"""Configuration of the qrels evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xmrank.config.common import RUN
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class QrelsConfig:
    """Measure the rankings of an evaluation by qrels files or class labels."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset({"embeddings", "results", "qrels", "output", "overwrite"})
    embeddings: Path = RUN / "embeddings"
    """Embedding store that was ranked."""
    results: Path = RUN / "evaluation"
    """Directory of evaluate.py or baselines.py, whose gallery rankings are evaluated."""
    qrels: Path | None = None
    """Relevance grades as a TREC qrels file (query 0 item grade), such as those of ECCV Caption or CxC. Gives hit@k,
    recall@k, MRR, NDCG@10 from the grades, mAP@R and R-precision."""
    least_grade: float = 1.0
    """Items with at least this grade are positives; lower grades are ignored."""
    plausible: bool = False
    """Also compute PMRP, where an item is a plausible match if the class labels of its image differ from those of the
    query's image in at most 0, 1 or 2 classes."""
    output: Path = RUN / "qrels"
    """Directory of the per-query results."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""

    def __post_init__(self) -> None:
        if self.qrels is None and not self.plausible:
            raise ConfigError("--qrels: expected a qrels file, or --plausible, or both")
        if self.least_grade <= 0:
            raise ConfigError(f"--least-grade {self.least_grade:g}: expected more than 0")
