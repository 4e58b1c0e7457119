"""Configuration of the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xmrank.config.common import RUN, at_least
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class ReportConfig:
    """Make the tables and the page of an evaluation."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"embeddings", "rankers", "evaluation", "search", "baselines", "output", "overwrite"}
        | {"remote_images", "compare"}
    )
    embeddings: Path = RUN / "embeddings"
    """Embedding store, for the captions and pictures of the examples."""
    rankers: Path = RUN / "rankers"
    """Trained rankers, for their learning curves."""
    evaluation: Path = RUN / "evaluation"
    """Per-query results of evaluate.py."""
    search: Path | None = None
    """Search that found the rankers' settings (the directory search of tune.py), for the importance of
    hyper-parameters."""
    baselines: Path | None = None
    """Results of baselines.py on the same lists; their rows come between the first stage and the rankers."""
    compare: tuple[Path, ...] = ()
    """Directories of experiments with their reports, to compare on one page (comparison.html in the output) instead of
    reporting one."""
    output: Path = RUN / "report"
    """Directory of the report."""
    title: str = "xmrank report"
    """Heading of the page."""
    examples: int = 12
    """Number of example queries shown with pictures."""
    remote_images: bool = False
    """Fetch the pictures of examples when the images are at a URI (s3://…, https://…); otherwise they are listed as
    missing. The embedding store names the URI: use this only for a store that you trust."""
    draws: int = 10_000
    """Random draws of the confidence intervals and of the significance tests. A test takes more where its protocol has
    many: 100 for each of them."""
    seed: int = 0
    """Seed of these draws."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""

    def __post_init__(self) -> None:
        if len(self.compare) == 1:
            raise ConfigError(f"--compare {self.compare[0]}: expected at least two experiments")
        at_least("--examples", self.examples, 0)
        at_least("--draws", self.draws, 1)
        at_least("--seed", self.seed, 0)
