"""The page of a ranking: queries with their best results, as one HTML file that needs no other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.config import RankConfig
from xmrank.datasets.locations import read_bytes
from xmrank.embed.store import EmbeddingStore
from xmrank.pages.templating import fill
from xmrank.pages.thumbnails import Thumbnail, ThumbnailAlbum, thumbnail
from xmrank.pages.wording import DIRECTION_NAMES
from xmrank.rank.queries import read_queries
from xmrank.rank.stage import RESULTS, STEPS, rank
from xmrank.runtime.directory import Manifest
from xmrank.runtime.errors import XmrankError
from xmrank.runtime.files import write_text
from xmrank.runtime.paths import resolve

PAGE = "results.html"
SHOWN = 10
QUERY_SIDE, CANDIDATE_SIDE = 320, 176


@dataclass(frozen=True)
class ResultItem:
    """A result as it is shown."""

    id: str
    text: str | None
    picture: Thumbnail | None
    first_rank: int


@dataclass(frozen=True)
class QueryResults:
    """A query with its best results."""

    id: str
    text: str | None
    picture: Thumbnail | None
    items: tuple[ResultItem, ...]


def rank_and_show(config: RankConfig) -> Manifest:
    """Rank, and write the page when ``--page`` asks for one; it is made of the results, whoever made them.

    Raises:
        ConfigError, DataError: as ``rank`` does.
    """
    manifest = rank(config)
    if config.page:
        directory = resolve(config.output)
        write_text(directory / PAGE, render(config, manifest, read_cards(config, manifest, directory / RESULTS)))
        print(f"page: {directory / PAGE}")
    return manifest


def read_cards(config: RankConfig, manifest: Manifest, results: Path) -> list[QueryResults]:
    """The first queries of the results with their pictures."""
    rows = first_queries(results, config.page)
    is_image = manifest.settings["direction"] == "i2t"
    album = album_of(resolve(config.embeddings), [] if is_image else [row["candidate_id"] for row in rows])
    asked = query_pictures(config) if is_image else {}
    cards: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cards.setdefault(row["query_id"], []).append(row)
    return [
        QueryResults(
            query,
            found[0]["query"],
            picture_of(asked.get(query), QUERY_SIDE),
            tuple(item_of(row, album, is_image=is_image) for row in found),
        )
        for query, found in cards.items()
    ]


def item_of(row: dict[str, Any], album: ThumbnailAlbum, *, is_image: bool) -> ResultItem:
    """One result; a caption for an image, a picture for a caption."""
    picture = None if is_image else album.picture(row["candidate_id"], CANDIDATE_SIDE)
    return ResultItem(row["candidate_id"], row["candidate"], picture, row["first_rank"])


def first_queries(results: Path, count: int) -> list[dict[str, Any]]:
    """The rows of the first queries down to rank ``SHOWN``; reads no more of the file than it needs."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for batch in pq.ParquetFile(results).iter_batches():
        for row in batch.filter(pa.compute.field("rank") <= SHOWN).to_pylist():
            seen.add(row["query_id"])
            if len(seen) > count:
                return rows
            rows.append(row)
    return rows


def album_of(embeddings: Path, image_ids: list[str]) -> ThumbnailAlbum:
    """Where the files of these images are."""
    store = EmbeddingStore.open(embeddings)
    if store.images_root is None or not image_ids:
        return ThumbnailAlbum(None, {}, {})
    wanted = store.images.filter(pa.compute.field("image_id").isin(list(set(image_ids))))
    places = zip(wanted["image_id"].to_pylist(), wanted["location"].to_pylist(), strict=True)
    return ThumbnailAlbum(store.images_root, dict(places), {})


def query_pictures(config: RankConfig) -> dict[str, str]:
    """Query id → address of its image; none for embeddings."""
    assert config.queries
    queries = read_queries(resolve(config.queries), config.column, "i2t")
    return dict(zip(queries.ids, queries.items, strict=True)) if queries.kind == "image" else {}


def picture_of(address: str | None, side: int) -> Thumbnail | None:
    """An image made small; None where there is none, or it cannot be read."""
    if address is None:
        return None
    try:
        return thumbnail(read_bytes(address), side)
    except (XmrankError, OSError, ValueError, SyntaxError):
        return None


def render(config: RankConfig, manifest: Manifest, cards: list[QueryResults]) -> str:
    """The page."""
    return fill(
        "ranked.html.jinja",
        room="xmrank.rank",
        title=config.title,
        cards=cards,
        counts=manifest.counts,
        ranker=manifest.settings["ranker"],
        inputs=manifest.inputs,
        is_image=manifest.settings["direction"] == "i2t",
        direction=DIRECTION_NAMES[manifest.settings["direction"]],
        steps=STEPS,
        milliseconds=manifest.settings["milliseconds_per_query"],
        left_out=manifest.left_out,
    )
