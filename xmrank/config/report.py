"""Configuration of the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xmrank.config.common import RUN, at_least


@dataclass(frozen=True)
class ReportConfig:
    """Make the table and the page of an evaluation."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
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
