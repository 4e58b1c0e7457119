"""Configuration of evaluation and report."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xmrank.config.base import RUN, at_least


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
    top_n: int = 100
    """On the full gallery, rankers re-rank the first stage's this many."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        at_least("--top-n", self.top_n, 1)


@dataclass(frozen=True)
class ReportConfig:
    """Make the table and the page of an evaluation."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"embeddings", "rankers", "evaluation", "output", "overwrite"})
    embeddings: Path = RUN / "embeddings"
    """Embedding store (captions and the places of the images)."""
    rankers: Path = RUN / "rankers"
    """Trained rankers (learning curves)."""
    evaluation: Path = RUN / "evaluation"
    """Per-query results."""
    output: Path = RUN / "report"
    """Directory of the report."""
    title: str = "xmrank report"
    """Heading of the page."""
    examples: int = 12
    """Example queries shown with their pictures."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        at_least("--examples", self.examples, 0)
