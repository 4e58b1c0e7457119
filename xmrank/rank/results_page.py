"""The page of a ranking: queries with their best results, as one HTML file without any other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from xmrank.config.rank import RankConfig
from xmrank.datasets.locations import read_bytes
from xmrank.embed.store import EmbeddingStore
from xmrank.pages.templating import fill_template
from xmrank.pages.thumbnails import Thumbnail, ThumbnailAlbum, make_thumbnail
from xmrank.pages.wording import DIRECTION_NAMES
from xmrank.rank.queries import read_queries
from xmrank.rank.results import PAGE, RESULTS, STEPS
from xmrank.runtime.files import read_batches, write_text
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve

SHOWN = 10
"""Results of each query."""
QUERY_SIDE, CANDIDATE_SIDE = 320, 176
"""Pixels of the longer side of a picture."""


@dataclass(frozen=True)
class ResultItem:
    """A result on the page; ``first_rank`` is its rank in the first stage, from 1."""

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


def write_page(config: RankConfig, manifest: Manifest, output: Path) -> None:
    """Write the page of results that are there already, and print its path.

    Args:
        config: as it was given to the stage.
        manifest: of the ranking.
        output: its directory.
    """
    # Only images as results have an album: captions are shown as text.
    is_image = manifest.settings["direction"] == "i2t"
    rows = read_first_rows(output / RESULTS, config.page)
    album = open_album(config, [] if is_image else [row["candidate_id"] for row in rows])
    queries = make_query_results(config, rows, album, is_image=is_image)
    write_text(output / PAGE, render_results(config, manifest, queries, album.missing))
    print(f"page: {output / PAGE}")


def make_query_results(
    config: RankConfig, rows: list[dict[str, Any]], album: ThumbnailAlbum, *, is_image: bool
) -> list[QueryResults]:
    """The queries of the rows with their pictures."""
    pictures = query_images(config) if is_image else {}
    # Rows are query by query, best first.
    by_query: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_query.setdefault(row["query_id"], []).append(row)
    queries = []
    for query, candidates in by_query.items():
        items = tuple(make_item(row, album, is_image=is_image) for row in candidates)
        picture = read_thumbnail(pictures.get(query), QUERY_SIDE)
        queries.append(QueryResults(query, candidates[0]["query"], picture, items))
    return queries


def make_item(row: dict[str, Any], album: ThumbnailAlbum, *, is_image: bool) -> ResultItem:
    """One result: a caption where the query is an image, else a picture."""
    picture = None if is_image else album.make_picture(row["candidate_id"], CANDIDATE_SIDE)
    return ResultItem(row["candidate_id"], row["candidate"], picture, row["first_rank"])


def read_first_rows(results: Path, count: int) -> list[dict[str, Any]]:
    """The rows of the first ``count`` queries, down to rank ``SHOWN``."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for batch in read_batches(results, 1 << 16):
        for row in batch.filter(pa.compute.field("rank") <= SHOWN).to_pylist():
            seen.add(row["query_id"])
            # Results are query by query: the next query ends the reading.
            if len(seen) > count:
                return rows
            rows.append(row)
    return rows


def open_album(config: RankConfig, image_ids: list[str]) -> ThumbnailAlbum:
    """An album with the paths of these images; an empty one where the store has no images."""
    store = EmbeddingStore.open(resolve(config.embeddings))
    # Without images, results are shown by their ids.
    if store.images_root is None or not image_ids:
        return ThumbnailAlbum(None, {}, {})
    return ThumbnailAlbum(store.images_root, read_locations(store, image_ids), {}, config.remote_images)


def read_locations(store: EmbeddingStore, image_ids: list[str]) -> dict[str, str]:
    """The paths of some images below the image folder, by image id."""
    wanted = store.images.filter(pa.compute.field("image_id").isin(list(set(image_ids))))
    return dict(zip(wanted["image_id"].to_pylist(), wanted["location"].to_pylist(), strict=True))


def query_images(config: RankConfig) -> dict[str, str]:
    """The path of each query's image, by query id; empty where the queries are embeddings."""
    assert config.queries
    queries = read_queries(resolve(config.queries), config.column, "i2t", config.id_column)
    return dict(zip(queries.ids, queries.items, strict=True)) if queries.kind == "image" else {}


def read_thumbnail(path: str | None, side: int) -> Thumbnail | None:
    """A small picture of an image; None without a path, or where the image cannot be read."""
    if path is None:
        return None
    # A picture that cannot be read is left out: the page is worth having without it.
    try:
        return make_thumbnail(read_bytes(path), side)
    except Exception:
        return None


def render_results(config: RankConfig, manifest: Manifest, queries: list[QueryResults], missing: dict[str, str]) -> str:
    """The page as HTML; ``missing`` says for images without a picture why they have none."""
    return fill_template(
        "results.html.jinja",
        room="xmrank.rank",
        title=config.title,
        queries=queries,
        counts=manifest.counts,
        ranker=manifest.settings["ranker"],
        inputs=manifest.inputs,
        is_image=manifest.settings["direction"] == "i2t",
        direction=DIRECTION_NAMES[manifest.settings["direction"]],
        steps=STEPS,
        milliseconds=manifest.settings["milliseconds_per_query"],
        left_out=manifest.left_out,
        missing=list(missing.values()),
    )
