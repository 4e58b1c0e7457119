"""Configuration of ranking new queries."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xmrank.config.common import RUN, Direction, at_least


@dataclass(frozen=True)
class RankConfig:
    """Rank a gallery for new queries with the first stage and a trained ranker."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"queries", "embeddings", "ranker", "direction", "output", "pretrained", "workers"}
        | {"page", "title", "overwrite"}
    )
    queries: Path | None = None
    """What is asked: a text file, one caption a line; a folder of images; or a parquet file with a column of captions,
    of images (their paths from the file's folder, or the images themselves), or of embeddings."""
    column: str | None = None
    """parquet: the column of the queries, where it is not named as usual (caption, text, image, path, embedding, …).
    Ids are taken from a column query_id, caption_id, image_id or id, else the row's number."""
    embeddings: Path = RUN / "embeddings"
    """Embedding store that is the gallery: its images for captions, its captions for images."""
    split: str | None = None
    """Only the gallery's items of this split; without it, all."""
    ranker: str | None = None
    """A model of MLflow's registry (models:/NAME@ALIAS), the folder of a trained ranker, or that of a training, whose
    best ranker is taken. Without it: models:/xmrank-t2i@best for captions, models:/xmrank-i2t@best for images."""
    direction: Direction | None = None
    """What asks for what; needed only where the queries do not say it: embeddings."""
    top_n: int = 100
    """The ranker orders the first stage's this many."""
    output: Path = RUN / "ranking"
    """Directory of the results."""
    page: int = 0
    """Queries that results.html shows with their best results and pictures; 0: no page. Results that are there already
    get their page without being ranked again."""
    title: str = "xmrank results"
    """Heading of the page."""
    pretrained: Path | None = None
    """The encoder's checkpoint, when the gallery was embedded with one from a file."""
    workers: int = 0
    """Ranking processes; 0: one a GPU, or one a core."""
    overwrite: bool = False
    """Empty the output directory first."""

    def __post_init__(self) -> None:
        at_least("--top-n", self.top_n, 1)
        at_least("--page", self.page, 0)
        at_least("--workers", self.workers, 0)
