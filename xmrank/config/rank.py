"""Configuration of ranking new queries."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xmrank.config.common import RUN, Direction, at_least


@dataclass(frozen=True)
class RankConfig:
    """Rank a gallery for new queries with the first stage and a trained ranker."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"queries", "id_column", "embeddings", "ranker", "direction", "output", "model", "pretrained"}
        | {"workers", "page", "title", "remote_images", "overwrite"}
    )
    queries: Path | None = None
    """Queries: a text file with a caption per line, a folder of images, or a table (csv, tsv, JSON, parquet) with
    captions or images (paths relative to the file's folder). Parquet may also hold the images themselves, or
    embeddings. A list of captions is several queries; rows of one image by its path are one."""
    column: str | None = None
    """Tables: the column of the queries, if it has no usual name (caption, text, image, path, embedding, …)."""
    id_column: str | None = None
    """Tables: the column of the ids, if it is not query_id, caption_id, image_id, id or key; without one, rows or lines
    are numbered. Several captions of one id become ID#0, ID#1, …"""
    embeddings: Path = RUN / "embeddings"
    """Embedding store that is the gallery: captions retrieve its images, images retrieve its captions."""
    split: str | None = None
    """Restrict the gallery to the items of this split; None: all items."""
    ranker: str | None = None
    """A model in MLflow's registry (models:/NAME@ALIAS), the folder of a trained ranker, or the folder of a training,
    of which the best ranker is used. None: models:/xmrank-DATASET-t2i@best for captions, -i2t@best for images, with the
    name of the gallery's data set."""
    direction: Direction | None = None
    """i2t (image query → captions) or t2i (caption query → images); needed only if the queries are embeddings."""
    top_n: int = 100
    """Number of candidates that the first stage retrieves and the ranker re-ranks; a smaller gallery is ranked as a
    whole."""
    output: Path = RUN / "ranking"
    """Directory of the results."""
    page: int = 0
    """Number of queries that results.html shows with their best results and pictures; 0: no page. A page can be added
    to existing results without ranking again."""
    title: str = "xmrank results"
    """Heading of the page."""
    remote_images: bool = False
    """Fetch the pictures of the page when the gallery's images are at a URI (s3://…, https://…); otherwise they are
    listed as missing. The embedding store names the URI: use this only for a store that you trust."""
    model: str | None = None
    """The encoder, local-dir:PATH or PATH.json, if the gallery was embedded with one from a folder or file."""
    pretrained: Path | None = None
    """Checkpoint of the encoder, if the gallery was embedded with one from a file."""
    workers: int = 0
    """Ranking processes; 0: one per GPU, or one per core."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""

    def __post_init__(self) -> None:
        at_least("--top-n", self.top_n, 1)
        at_least("--page", self.page, 0)
        at_least("--workers", self.workers, 0)
