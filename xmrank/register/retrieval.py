"""A registered ranker with its gallery and encoder as a function: captions or images in, ranked ids out."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc

from xmrank.config.common import Direction
from xmrank.embed.store import EmbeddingStore
from xmrank.rank.query_ranker import QueryRanker, QueryTiming
from xmrank.rank.ranking_job import QueryBatch, RankingJob
from xmrank.rank.trained_rankers import RANKER_FOLDER
from xmrank.runtime.paths import as_path, resolve_uri
from xmrank.train.checkpoint_json import read_about

LOADER = f"{__name__}:load_retriever"
"""Kept with a registered model, which MLflow loads by it: as module:function."""
GALLERY = "gallery"
"""The folder of the gallery's store, beside the ranker's; without it, the settings have its path under this name."""
TOP_K = 10
"""Results of a query, unless the caller wants another number (parameter ``top_k``)."""
CANDIDATES = 100
"""Candidates that the ranker re-ranks, unless the settings say otherwise (``candidates``)."""
CAPTION, IMAGE, IMAGE_BYTES = "caption", "image", "image_bytes"
"""Columns of the input: captions; paths or URLs of images; images themselves."""
MANY = 2**31
"""Queries to be expected, more than any gallery has items: what is worth doing once is done."""


SHOWN: dict[Direction, str] = {"i2t": "captions", "t2i": "locations"}
"""The column of the output with what there is to show of a result."""


@dataclass(frozen=True)
class Retriever:
    """Ranks a gallery for captions or images.

    Attributes:
        ranker: with its gallery, encoder and index, loaded.
    """

    ranker: QueryRanker

    def __call__(self, frame: pd.DataFrame, parameters: Mapping[str, Any]) -> pd.DataFrame:
        """Rank the gallery for each row.

        Args:
            frame: with the column ``caption`` (t2i), or with ``image`` or ``image_bytes`` (i2t).
            parameters: ``top_k``, the number of results.

        Returns:
            For each row ``ids`` and ``scores`` of the best, best first, their ``captions`` or ``locations``, and an
            ``error``: empty, or why a query could not be read. Such a query has no results.

        Raises:
            ValueError: ``top_k`` is below 1.
        """
        top_k = int(parameters.get("top_k", TOP_K))
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; expected at least 1")
        shown = SHOWN[self.ranker.job.direction]
        answers: list[dict[str, Any]] = [{"ids": [], "scores": [], shown: [], "error": ""} for _ in range(len(frame))]
        with tempfile.TemporaryDirectory(prefix="xmrank-queries-") as folder:
            items: dict[str, str] = {}
            for number, row in enumerate(frame.to_dict("records")):
                try:
                    items[str(number)] = self.read_query(row, Path(folder) / str(number))
                except ValueError as error:
                    answers[number]["error"] = str(error)
            for name, answer in self.rank_items(items, top_k).items():
                answers[int(name)].update(answer)
        return pd.DataFrame(answers)

    def read_query(self, row: Mapping[Any, Any], file: Path) -> str:
        """A caption, or the address of an image.

        Args:
            row: of the input; a column may be missing or null.
            file: takes an image that is given as bytes.

        Raises:
            ValueError: nothing in the row, or more than one query.
        """
        columns = (CAPTION,) if self.ranker.job.direction == "t2i" else (IMAGE, IMAGE_BYTES)
        given = {name: row[name] for name in columns if isinstance(row.get(name), str | bytes) and row[name].strip()}
        if len(given) != 1:
            raise ValueError(f"expected {' or '.join(columns)} in each row")
        ((name, value),) = given.items()
        if name == IMAGE_BYTES:
            file.write_bytes(value)
            return str(file)
        return str(resolve_uri(value)) if name == IMAGE else str(value).strip()

    def rank_items(self, items: Mapping[str, str], top_k: int) -> dict[str, dict[str, Any]]:
        """The answers to queries by name: an error, or ids, scores and what there is to show."""
        if not items:
            return {}
        names, queries = list(items), list(items.values())
        table, broken = self.ranker.rank_queries(QueryBatch(0, names, queries, queries), QueryTiming())
        answers: dict[str, dict[str, Any]] = {name: {"error": reason} for name, reason in broken.items()}
        results = table.filter(pc.field("rank") <= top_k).to_pandas()
        for name, best in results.groupby("query_id", sort=False):
            answers[str(name)] = {
                "ids": best["candidate_id"].astype(str).to_list(),
                "scores": best["score"].astype(float).to_list(),
                SHOWN[self.ranker.job.direction]: best["candidate"].astype(object).fillna("").to_list(),
            }
        return answers


def load_retriever(folders: Mapping[str, Path], settings: Mapping[str, Any]) -> Retriever:
    """Load a ranker with its gallery and the gallery's encoder.

    Args:
        folders: the ranker's, and the gallery's store unless the settings name its path.
        settings: ``gallery``, the path or URI of the store; ``candidates``, how many the ranker re-ranks; ``encoder``,
            the arguments of ``load_encoder``.

    Raises:
        DataError: files that are not there or damaged, or an encoder with other weights than the gallery's.
    """
    gallery = folders.get(GALLERY) or as_path(str(settings[GALLERY]))
    store = EmbeddingStore.open(gallery)
    direction: Direction = read_about(folders[RANKER_FOLDER])["direction"]
    job = RankingJob.of(
        store,
        folders[RANKER_FOLDER],
        kind="text" if direction == "t2i" else "image",
        encoder=dict(settings["encoder"]),
        top_n=int(settings.get("candidates") or CANDIDATES),
        queries=MANY,
        # For embeddings as queries only, which this function does not take.
        folder=folders[RANKER_FOLDER],
    )
    ranker = QueryRanker(job)
    ranker.load_all()
    return Retriever(ranker)
