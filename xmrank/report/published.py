"""The paper’s Table 2, how to read it, and the figures of this run beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xmrank.config.method_names import FIRST_STAGE
from xmrank.pages.wording import DIRECTION_NAMES, format_percent, join_words, method_name
from xmrank.protocols.protocol_names import first_stage_protocol, protocol_name
from xmrank.report.result_tables import ResultTable, TableRow, deepest_tables

Figures = tuple[str, str, str]
CUT_OFFS = (1, 5, 10)
NO_FIGURES: Figures = ("–", "–", "–")
# Flickr30k, R@1, R@5, R@10 in percent; the directions are those of the reading below, not those of its headings.
TABLE_2: dict[str, dict[str, Figures]] = {
    FIRST_STAGE: {"t2i": ("29.46", "83.46", "90.30"), "i2t": ("16.16", "58.56", "73.68")},
    "lambdarank": {"t2i": ("20.02", "75.70", "91.74"), "i2t": ("12.48", "52.14", "74.66")},
    "neural_ndcg": {"t2i": ("23.14", "80.20", "92.25"), "i2t": ("13.52", "57.04", "76.54")},
    "listnet": {"t2i": ("21.82", "80.14", "92.16"), "i2t": ("13.82", "57.50", "76.42")},
    "ranknet": {"t2i": ("20.02", "76.84", "92.06"), "i2t": ("13.22", "55.24", "77.46")},
    "dcca": {"t2i": ("12.60", "31.00", "43.00"), "i2t": ("16.70", "39.30", "52.90")},
    "cmpm": {"t2i": ("29.10", "56.30", "67.70"), "i2t": ("37.10", "65.80", "76.30")},
}
LABELS = {"dcca": "DCCA", "cmpm": "CMPM"}
# Published by other papers and taken over: a hit counts, in both directions.
HIT_BASED = ("dcca", "cmpm")
READING = (
    "Not comparable with our figures: the paper’s are of Flickr30k and CLIP ViT-B/32 under its own protocol, ours are "
    "of this run’s data, encoder and lists. Not even the direction of an effect can be compared: whether a loss of the "
    "paper beats its first stage is unknown, because the CLIP row is the full gallery and the protocol of the rankers’ "
    "rows is not stated.",
    "The columns are by query modality although they are headed “text retrieval” and “image retrieval”. The DCCA and "
    "CMPM rows are the figures that those papers publish, hit-based on the full gallery, and they fit only this "
    "reading: the first group is text query → image (t2i), the second image query → text (i2t). Our hit@k is beside "
    "them in both groups.",
    "The i2t group of the CLIP row is the fraction found / total of the paper’s equation (5), not a hit rate: with "
    "five captions per image R@1 cannot exceed 20 %, and 16.16 is 80.8 / 5. Beside it and the rankers’ rows is our "
    "recall@k; beside the t2i group, where one image is right, our hit@k. On candidate lists with one right caption "
    "our recall@k is a hit rate and has no such limit.",
    "The CLIP row is zero-shot on the full gallery of 1,000 images (t2i R@5 of 83.46; a public benchmark has 83.38). "
    "Its t2i R@1 of 29.46 is about half of the published 58.8, and every t2i R@1 of a CLIP-based row looks halved.",
    "The text says 51 candidates per list; Table 1 counts 609,000 / 29,000 = 21. The gains that the text quotes "
    "(5.13 %, 158.7 %) are relative, not percentage points.",
)


@dataclass(frozen=True)
class PublishedRow:
    """One method: the paper’s figures, then ours, three for each protocol."""

    label: str
    figures: tuple[Figures, ...]


@dataclass(frozen=True)
class PublishedComparison:
    """The paper’s figures beside ours in one direction.

    Attributes:
        metric: of our figures, "hit" or "recall"; the rows of ``HIT_BASED`` always have hit.
        groups: whose figures the columns are: the paper’s, then ours, protocol by protocol.
    """

    direction: str
    metric: str
    groups: tuple[str, ...]
    rows: tuple[PublishedRow, ...]

    @property
    def title(self) -> str:
        """The direction, and which of our metrics is compared."""
        title = f"{DIRECTION_NAMES[self.direction]}: R@k of the paper, {self.metric}@k of this run"
        if self.metric == "hit":
            return title
        return f"{title} (hit@k for {join_words([LABELS[method] for method in HIT_BASED])})"


def compare_published(tables: Sequence[ResultTable]) -> list[PublishedComparison]:
    """Table 2 beside the figures of this run, text queries first as in the paper, for the directions that were run.

    Figures of this run are those on the lists and on the full gallery, at the deepest re-ranking.
    """
    # Smaller galleries have no figures in the paper.
    tables = [table for table in deepest_tables(tables) if first_stage_protocol(table.protocol) in ("lists", "gallery")]
    comparisons = []
    for direction, metric in (("t2i", "hit"), ("i2t", "recall")):
        own = [table for table in tables if table.direction == direction]
        if own:
            comparisons.append(_compare_direction(direction, metric, own))
    return comparisons


def _compare_direction(direction: str, metric: str, tables: list[ResultTable]) -> PublishedComparison:
    ours = [{row.method: row for row in table.rows} for table in tables]
    # The paper's methods in its order, then those that only this run has.
    others = [row.method for table in tables for row in table.rows if row.method not in TABLE_2]
    rows = []
    for method in [*TABLE_2, *dict.fromkeys(others)]:
        published = TABLE_2.get(method, {}).get(direction, NO_FIGURES)
        own_metric = "hit" if method in HIT_BASED else metric
        measured = [_format_figures(by_method.get(method), own_metric) for by_method in ours]
        # A row says so where its metric is not that of the others.
        label = _method_label(method) + ("" if own_metric == metric else f" ({own_metric}@k)")
        # The rankers of a method are the same on every protocol of a direction.
        label += next((by_method[method].kept_mark for by_method in ours if method in by_method), "")
        rows.append(PublishedRow(label, (published, *measured)))
    groups = ("Paper, Table 2 (Flickr30k)", *(f"This run: {protocol_name(t.protocol).lower()}" for t in tables))
    return PublishedComparison(direction, metric, groups, tuple(rows))


def _method_label(method: str) -> str:
    return "First stage (paper: CLIP)" if method == FIRST_STAGE else LABELS.get(method, method_name(method))


def _format_figures(row: TableRow | None, metric: str) -> Figures:
    cells = [row.cells.get(f"{metric}@{k}") if row else None for k in CUT_OFFS]
    # Two decimals, as the paper prints them.
    one, five, ten = (format_percent(cell.mean if cell else math.nan, digits=2) for cell in cells)
    return one, five, ten
