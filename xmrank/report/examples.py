"""Example queries before and after re-ranking: those that the ranker improved most, and those it worsened most."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from xmrank.config.method_names import FIRST_STAGE
from xmrank.pages.thumbnails import Thumbnail, ThumbnailAlbum
from xmrank.pages.wording import DIRECTION_NAMES, count_noun, method_name
from xmrank.protocols.protocol_names import first_stage_protocol, protocol_name
from xmrank.report.captions import CaptionTexts, open_album, read_captions
from xmrank.report.inputs import ReportInputs, TrialRecord
from xmrank.report.result_tables import ResultTable
from xmrank.runtime.files import read_parquet

SHOWN = 5
QUERY_SIDE, CANDIDATE_SIDE = 320, 176
KINDS = ("helped", "hurt")


@dataclass(frozen=True)
class ExampleItem:
    """A query or a candidate as it is shown; ``relevant`` is meant for candidates."""

    id: str
    text: str | None
    picture: Thumbnail | None
    relevant: bool = False


@dataclass(frozen=True)
class ExampleQuery:
    """One query with its best candidates before and after re-ranking.

    Attributes:
        kind: whether the ranker helped or hurt.
        is_image: whether the query is an image; the candidates are then captions.
        rank_before: rank of the first right answer in the first stage; None when it is not among the candidates.
        rank_after: the same after re-ranking.
    """

    direction: str
    kind: str
    query: ExampleItem
    before: tuple[ExampleItem, ...]
    after: tuple[ExampleItem, ...]
    rank_before: int | None
    rank_after: int | None

    @property
    def is_image(self) -> bool:
        """Whether the query is an image and the candidates are captions."""
        return self.direction == "i2t"


@dataclass(frozen=True)
class ExampleChoice:
    """The ranker whose rankings the examples of a direction show, on one protocol: the best by ``basis``."""

    direction: str
    protocol: str
    method: str
    ranker: str
    seed: int
    basis: str

    @property
    def words(self) -> str:
        """The choice as a phrase."""
        direction = DIRECTION_NAMES.get(self.direction, self.direction)
        name = f"{method_name(self.method)}, seed {self.seed}, the best by {self.basis}"
        return f"{direction}: {name} ({protocol_name(self.protocol).lower()})"


@dataclass(frozen=True)
class ExampleGallery:
    """All examples, and the rankers they are of.

    Attributes:
        missing: image id → why its picture cannot be shown.
        has_images: whether the embeddings have image files at all.
    """

    examples: tuple[ExampleQuery, ...]
    choices: tuple[ExampleChoice, ...]
    missing: dict[str, str]
    has_images: bool

    @property
    def note(self) -> str:
        """Why pictures are missing, and what is shown instead; empty when none is missing."""
        instead = "captions and ids are shown instead."
        if not self.has_images:
            return f"There are no pictures, because the embeddings were imported without images; {instead}"
        reason = next(iter(self.missing.values()), "")
        count = len(self.missing)
        return f"{count_noun(count, 'picture')} cannot be shown ({reason}); {instead}" if count else ""


def choose_examples(
    inputs: ReportInputs, tables: Sequence[ResultTable], count: int, *, remote_images: bool = False
) -> ExampleGallery:
    """Choose the queries whose first right answer moved most, by the difference of reciprocal ranks.

    Args:
        inputs: the stages before.
        tables: the results; they name the methods and protocols.
        count: how many examples; half helped and half hurt, directions in turn.
        remote_images: whether pictures may be fetched from a root that is a URI.
    """
    directions = dict.fromkeys(table.direction for table in tables)
    # A direction without a ranker has no examples.
    choices = [choice for direction in directions if (choice := _choose_ranker(inputs, tables, direction))]
    if not choices or not count:
        return ExampleGallery((), (), {}, has_images=inputs.images_root is not None)
    # How many of each kind every direction gets: helped and hurt in turn, directions in turn.
    slots = Counter((choices[i // 2 % len(choices)], KINDS[i % 2]) for i in range(count))
    captions = read_captions(inputs.embeddings_directory, inputs.split)
    # First the queries, then only their rankings, then only the pictures of those: the tables are large.
    picked = {choice: _pick_queries(inputs, choice, captions, slots) for choice in choices}
    rankings = {
        choice: _ExampleRankings.read(inputs, choice, [query for query, _ in picks]) for choice, picks in picked.items()
    }
    album = open_album(inputs, _shown_images(picked, rankings), remote_images=remote_images)
    examples = [
        _make_example(choice, query, kind, rankings[choice], captions, album)
        for choice in choices
        for query, kind in picked[choice]
    ]
    return ExampleGallery(
        tuple(examples), tuple(choices), dict(sorted(album.missing.items())), has_images=inputs.images_root is not None
    )


def _choose_ranker(inputs: ReportInputs, tables: Sequence[ResultTable], direction: str) -> ExampleChoice | None:
    """The best loss by validation and its best seed, on the full gallery where rankers were run on it."""
    tables = [table for table in tables if table.direction == direction]
    tables = [table for table in tables if any(row.trained_ranker for row in table.rows)]
    if not tables:
        return None
    # Tables are by ascending N: the last of the full gallery is the deepest.
    full = [t for t in tables if first_stage_protocol(t.protocol) == "gallery"]
    table = full[-1] if full else tables[0]
    rows = [row for row in table.rows if row.trained_ranker]
    methods = {row.method for row in rows}
    trials = [trial for trial in inputs.trials if trial.direction == direction and trial.loss in methods]
    scores = {row.method: [_validation_mean(t) for t in trials if t.loss == row.method] for row in rows}
    # A loss is chosen by validation only where all its seeds have a validation figure.
    known = [row for row in rows if scores[row.method] and not any(map(math.isnan, scores[row.method]))]
    if known:
        row = max(known, key=lambda row: statistics.fmean(scores[row.method]))
        seed = max((t for t in trials if t.loss == row.method), key=_validation_mean).seed
        return ExampleChoice(direction, table.protocol, row.method, row.ranker, seed, "validation")
    # Without validation figures, the reported figure itself decides.
    row = max(rows, key=lambda row: row.cells["hit@1"].mean if "hit@1" in row.cells else 0.0)
    return ExampleChoice(direction, table.protocol, row.method, row.ranker, _first_seed(inputs, row.method), "hit@1")


def _validation_mean(trial: TrialRecord) -> float:
    mean = trial.value_at_best("validation_mean")
    # A history without the mean has at least hit@1.
    return trial.value_at_best("validation_hit@1") if math.isnan(mean) else mean


def _first_seed(inputs: ReportInputs, method: str) -> int:
    seeds = read_parquet(inputs.metrics, columns=["seed"], filters=[("method", "==", method)])["seed"]
    return int(min(seeds.unique().to_pylist()))


def _row_filters(inputs: ReportInputs, choice: ExampleChoice, *, first_stage: bool) -> list[tuple[str, str, Any]]:
    protocol = first_stage_protocol(choice.protocol) if first_stage else choice.protocol
    method, ranker, seed = (FIRST_STAGE, "", -1) if first_stage else (choice.method, choice.ranker, choice.seed)
    keys = {"method": method, "ranker": ranker, "seed": seed, "direction": choice.direction, "protocol": protocol}
    if inputs.split:
        keys["split"] = inputs.split
    return [(key, "==", value) for key, value in keys.items()]


def _pick_queries(
    inputs: ReportInputs, choice: ExampleChoice, captions: CaptionTexts, slots: Counter[tuple[ExampleChoice, str]]
) -> list[tuple[str, str]]:
    """Queries and kinds: the largest gains and the largest losses, at most one query of each image."""
    gains = _rank_gains(inputs, choice)
    picked: list[tuple[str, str]] = []
    for kind, sign in (("helped", 1), ("hurt", -1)):
        # A difference of rounding is no gain; equal gains are in the order of the ids.
        moved = (sign * gains)[sign * gains > 1e-9].rename("gain").rename_axis("query").reset_index()
        ordered = moved.sort_values(["gain", "query"], ascending=[False, True])["query"]
        # The captions of an image are alike: one of them is enough, also over both kinds.
        seen = {captions.image_of.get(query, query) for query, _ in picked}
        for query in ordered:
            if sum(k == kind for _, k in picked) == slots[choice, kind]:
                break
            image = captions.image_of.get(query, query)
            if image not in seen:
                seen.add(image)
                picked.append((query, kind))
    return picked


def _rank_gains(inputs: ReportInputs, choice: ExampleChoice) -> "pd.Series[float]":
    """Reciprocal rank of the first right answer after re-ranking minus before, by query."""
    means = []
    for first_stage in (True, False):
        filters = [*_row_filters(inputs, choice, first_stage=first_stage), ("metric", "==", "mrr")]
        frame = read_parquet(inputs.metrics, columns=["query_id", "value"], filters=filters).to_pandas()
        # A query with several lists has several values.
        means.append(frame.astype({"query_id": str}).groupby("query_id")["value"].mean())
    before, after = means
    # Queries without a relevant item have no value.
    gains: pd.Series[float] = (after - before).dropna()
    return gains


@dataclass(frozen=True)
class _ExampleRankings:
    """The candidates of each query in order, before and after."""

    before: dict[str, list[str]]
    after: dict[str, list[str]]

    @classmethod
    def read(cls, inputs: ReportInputs, choice: ExampleChoice, queries: list[str]) -> "_ExampleRankings":
        """Read the rows of these queries only: the table of rankings may have many millions."""
        orders = []
        for first_stage in (True, False):
            frame = read_parquet(
                inputs.rankings,
                columns=["query_id", "candidate_id", "rank"],
                filters=[*_row_filters(inputs, choice, first_stage=first_stage), ("query_id", "in", queries or [""])],
            ).to_pandas()
            frame = frame.astype({"query_id": str, "candidate_id": str}).sort_values(["query_id", "rank"])
            # Of a query with several lists, the first is shown.
            frame = frame.drop_duplicates(["query_id", "rank"])
            orders.append({str(query): list(part["candidate_id"]) for query, part in frame.groupby("query_id")})
        return cls(*orders)


def _shown_images(
    picked: dict[ExampleChoice, list[tuple[str, str]]], rankings: dict[ExampleChoice, _ExampleRankings]
) -> Iterable[str]:
    """Ids of the images that will be shown."""
    for choice, picks in picked.items():
        for query, _ in picks:
            if choice.direction == "i2t":
                yield query
            else:
                for order in (rankings[choice].before, rankings[choice].after):
                    yield from order.get(query, [])[:SHOWN]


def _make_example(
    choice: ExampleChoice,
    query: str,
    kind: str,
    rankings: _ExampleRankings,
    captions: CaptionTexts,
    album: ThumbnailAlbum,
) -> ExampleQuery:
    # The whole rankings: the first right answer may be below the candidates that are shown.
    before, after = rankings.before.get(query, []), rankings.after.get(query, [])
    own = query if choice.direction == "i2t" else captions.image_of.get(query, "")
    if choice.direction == "i2t":
        shown = ExampleItem(query, captions.first_of.get(query), album.make_picture(query, QUERY_SIDE))
        relevant = {candidate for candidate in {*before, *after} if captions.image_of.get(candidate) == own}
    else:
        shown = ExampleItem(query, captions.text_of.get(query), None)
        relevant = {own}

    def item(candidate: str) -> ExampleItem:
        if choice.direction == "i2t":
            return ExampleItem(candidate, captions.text_of.get(candidate), None, candidate in relevant)
        picture = album.make_picture(candidate, CANDIDATE_SIDE)
        return ExampleItem(candidate, captions.first_of.get(candidate), picture, candidate in relevant)

    return ExampleQuery(
        choice.direction,
        kind,
        shown,
        tuple(map(item, before[:SHOWN])),
        tuple(map(item, after[:SHOWN])),
        _first_rank(before, relevant),
        _first_rank(after, relevant),
    )


def _first_rank(order: list[str], relevant: set[str]) -> int | None:
    return next((rank for rank, candidate in enumerate(order, start=1) if candidate in relevant), None)
