"""The tables of a supervised experiment, as text cells that the terminal, Markdown and the page share."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from xmrank.config import DIRECTIONS
from xmrank.supervised.map_evaluation import TOP
from xmrank.supervised.published_baselines import NOT_FROM_FEATURES, table_figures
from xmrank.supervised.published_lcm import GAIN, MRR, paper_figures

SEARCH_NAMES = {
    "distance": "distance",
    "two_stage": "two-stage",
    "two_stage_predicted": "two-stage, labels predicted",
}
METHOD_NAMES = {
    "embeddings": "embeddings as they are",
    "lcm": "LCM",
    "lcm_c0": "LCM without label network (c = 0)",
    "lcm_kmeans": "LCM on k-means clusters",
    "dscmr": "DSCMR",
    "clip4cmr": "CLIP4CMR",
    "cca": "CCA",
    "kernel_cca": "kernel CCA",
    "dcca": "DCCA",
    "cfa": "CFA",
    "ml_cca": "ml-CCA",
    "gma": "GMA (LDA form)",
    "jfssl": "JFSSL",
    "jlslr": "JLSLR",
    "corr_ae": "Corr-AE",
    "acmr": "ACMR",
    "algcn": "ALGCN",
    "pan": "PAN",
    "srlch": "SRLCH, real-valued",
    "srlch_hash": "SRLCH, hash codes",
    "dcdh": "DCDH, hash codes",
    "gch": "GCH, hash codes",
}
AVERAGE = "average"
COLUMNS = (*DIRECTIONS, AVERAGE)
CSV_COLUMNS = ("dataset", "features", "method", "search", "direction", "metric", "class", "mean", "std", "runs")
NONE = "–"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class PlainTable:
    """A table of text cells; the first column names the row."""

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class SupervisedResults:
    """The results of all runs on one set with one kind of features.

    Attributes:
        about: of the set: name, features, sizes, widths, classes, notes.
        runs: their results.
        timing: their times.
        queries: values of every query, as in metrics.parquet.
    """

    about: dict[str, Any]
    runs: Rows
    timing: Rows
    queries: pd.DataFrame

    @property
    def methods(self) -> list[str]:
        """In the order that they were run in."""
        return list(dict.fromkeys(run["method"] for run in self.runs))

    def list_values(self, method: str, search: str, column: str, metric: str = "map") -> list[float]:
        """A metric of every run, in one direction or averaged over both; none where it was not measured."""
        means = []
        for run in self.runs:
            if run["method"] != method:
                continue
            rows = {row["direction"]: row.get(metric) for row in run["rows"] if row["search"] == search}
            own = list(rows.values()) if column == AVERAGE else [rows.get(column)]
            known = [value for value in own if value is not None]
            if known and len(known) == len(own):
                means.append(statistics.fmean(known))
        return means

    def average_runs(self, method: str, search: str, column: str = AVERAGE) -> float:
        """The mean over runs; NaN where it was not measured."""
        values = self.list_values(method, search, column)
        return statistics.fmean(values) if values else math.nan

    def mean_cost(self, method: str, cost: str) -> float:
        """The mean over runs of one of their costs; NaN where it was not measured.

        Args:
            method: the method.
            cost: seconds, parameters, or peak_mib.
        """
        values = [entry.get(cost) for entry in self.timing if entry["method"] == method]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else math.nan

    def of_class(self, method: str, search: str, number: int) -> float:
        """mAP over the queries of a class, both directions and all runs; NaN where it was not measured."""
        values = [
            row["classes"][number]
            for run in self.runs
            if run["method"] == method
            for row in run["rows"]
            if row["search"] == search and row["classes"][number] is not None
        ]
        return statistics.fmean(values) if values else math.nan


def format_spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over runs (n − 1), three digits: 0.353 ± 0.004."""
    if not values:
        return NONE
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def format_change(new: float, old: float) -> str:
    """A relative change: +12 %."""
    if math.isnan(new) or math.isnan(old) or not old:
        return NONE
    text = f"{100 * (new / old - 1):+.0f} %"
    return "0 %" if text in ("+0 %", "-0 %") else text.replace("-", "−")


def format_gain(new: float, old: float) -> str:
    """A change in absolute points of mAP, as the paper's tables print mAP: +0.12."""
    if math.isnan(new) or math.isnan(old):
        return NONE
    text = f"{new - old:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def map_table(results: SupervisedResults) -> PlainTable:
    """mAP of every method and search beside the paper's."""
    rows = []
    for method in results.methods:
        for search, name in SEARCH_NAMES.items():
            cells = [format_spread(results.list_values(method, search, column)) for column in COLUMNS]
            if cells[-1] != NONE:
                paper = paper_figures(results.about["name"], method, search)
                beside = [f"{value:.2f}" for value in paper] if paper else [NONE] * 3
                rows.append((METHOD_NAMES[method], name, *cells, *beside))
    heading = ("method", "search", *COLUMNS, *(f"paper {column}" for column in COLUMNS))
    note = (
        "mAP over all retrieved items, mean ± standard deviation over runs. The paper's figures are of CLIP features, "
        "on its own splits: another experiment, shown for orientation. Two-stage search is told the true labels of "
        "what it retrieves, which ranking by distance does not see; with labels predicted it sees none of them."
    )
    return PlainTable("mAP", heading, tuple(rows), note)


def published_table(results: SupervisedResults) -> PlainTable:
    """What the paper's Table 2 or 3 prints for this set, beside ours, and the methods that are not built."""
    rows = []
    for method, figures in table_figures(results.about["name"]).items():
        # The paper's row of LCM is of two-stage search.
        search = "two_stage" if method == "lcm" else "distance"
        ours = format_spread(results.list_values(method, search, AVERAGE))
        remark = f"not built: {NOT_FROM_FEATURES[method]}" if method in NOT_FROM_FEATURES else ""
        rows.append((METHOD_NAMES.get(method, method), *(f"{value:.2f}" for value in figures), ours, remark or NONE))
    heading = ("method", *(f"paper {column}" for column in COLUMNS), "ours, average", "remark")
    note = (
        "By distance; LCM by two-stage search. The paper takes the figures of the other methods from papers that used "
        "other features (for single labels CLIP4CMR's tables, for several labels ALGCN's), and its own are of CLIP "
        "features. Only an order of methods may be compared, and only within one column."
    )
    return PlainTable("The paper's Tables 2 and 3", heading, tuple(rows), note, folded=True)


def claim_table(results: SupervisedResults) -> PlainTable:
    """What two-stage search changes, with the retrieval set's labels and without them."""
    rows = []
    for method in results.methods:
        naive, told, untold = (results.average_runs(method, search) for search in SEARCH_NAMES)
        if not math.isnan(naive):
            relative = told / naive - 1 if naive else math.nan
            points_cells = (format_gain(told, naive), _reaches_gain(told - naive))
            relative_cells = (format_change(told, naive), _reaches_gain(relative))
            untold_cells = (format_gain(untold, naive), format_change(untold, naive))
            rows.append((METHOD_NAMES[method], *points_cells, *relative_cells, *untold_cells))
    heading = (
        *("method", "two-stage − distance", "0.10 or more", "relative", "10 % or more"),
        *("labels predicted − distance", "relative"),
    )
    note = (
        "Change of the average mAP, in points of mAP and relative. The paper says “an increase of 10 %–20 %”. By its "
        "Table 5 these are points: DSCMR gains 0.10 to 0.19, which is 12 to 32 % of what it had."
    )
    return PlainTable("Does two-stage search help?", heading, tuple(rows), note)


def _reaches_gain(gain: float) -> str:
    """Whether a gain is at least the paper's; rounded, because 0.3 − 0.2 is a little less than 0.1 as floats."""
    if math.isnan(gain):
        return NONE
    return "yes" if round(gain, 9) >= GAIN else "no"


def stage_1_table(results: SupervisedResults) -> PlainTable:
    """Mean reciprocal rank of the true label in stage 1."""
    rows = [
        (METHOD_NAMES[method], *(format_spread(results.list_values(method, "two_stage", d, "mrr")) for d in DIRECTIONS))
        for method in results.methods
        if results.list_values(method, "two_stage", "i2t", "mrr")
    ]
    paper = MRR.get(results.about["name"])
    if paper:
        rows.append(("LCM in the paper (CLIP features)", *(f"{value:.2f}" for value in paper)))
    return PlainTable("Stage 1: MRR of the true label", ("method", *DIRECTIONS), tuple(rows))


def hashing_table(results: SupervisedResults) -> PlainTable:
    """The protocol of papers on hashing: mAP@50 and the precision of the first N, by distance."""
    rows = []
    tops: tuple[int, ...] = ()
    for method in results.methods:
        own = [row for run in results.runs if run["method"] == method for row in run["rows"]]
        near = [row for row in own if row["search"] == "distance"]
        if not near:
            continue
        tops = TOP[: len(near[0]["top_precision"])]
        cells = [format_spread(results.list_values(method, "distance", c, "map_at_50")) for c in COLUMNS]
        means = [statistics.fmean(values) for values in zip(*(row["top_precision"] for row in near), strict=True)]
        rows.append((METHOD_NAMES[method], *cells, *(f"{value:.3f}" for value in means)))
    heading = ("method", *(f"mAP@50 {column}" for column in COLUMNS), *(f"P@{n}" for n in tops))
    note = (
        "By distance. AP@50 is divided by the smaller of 50 and the number of relevant items (some public code divides "
        "by the relevant ones among the first 50). P@N is the precision of the first N, mean of both directions; the "
        "picture has precision over recall."
    )
    return PlainTable("mAP@50 and top-N precision", heading, tuple(rows), note, folded=True)


def cost_table(results: SupervisedResults) -> PlainTable:
    """Time and memory to train, numbers that embed, and a query's time."""
    rows = []
    for method in results.methods:
        own = [timing for timing in results.timing if timing["method"] == method]
        rounds = [str(run["best_round"]) for run in results.runs if run["method"] == method]
        cells = []
        for search in SEARCH_NAMES:
            times = [entry["milliseconds"].get(f"{d}/{search}") for entry in own for d in DIRECTIONS]
            known = [value for value in times if value is not None]
            cells.append(f"{statistics.fmean(known):.3f}" if known else NONE)
        seconds = results.mean_cost(method, "seconds")
        numbers, peak = f"{own[0]['parameters']:,}", results.mean_cost(method, "peak_mib")
        memory = NONE if math.isnan(peak) else f"{peak:.0f}"
        rows.append((METHOD_NAMES[method], f"{seconds:.1f}", memory, ", ".join(rounds), numbers, *cells))
    heading = (
        "method",
        "s to train",
        "MiB to train",
        "round kept, a run",
        "numbers in the networks",
        *(f"ms a query, {name}" for name in SEARCH_NAMES.values()),
    )
    note = (
        "One thread; a query's time is that of all queries in one call, without embedding them. The numbers are those "
        "that embed images and texts: weights, and what kernels keep; at 4 bytes each (8 for CCA and kernel CCA). MiB "
        "are by how much the process grew at most while it trained, without the data; on a GPU, PyTorch's peak there."
    )
    return PlainTable("Cost", heading, tuple(rows), note)


def class_table(results: SupervisedResults) -> PlainTable:
    """mAP of every class, by distance and by two-stage search."""
    pairs = [
        (method, search)
        for method in results.methods
        for search in ("distance", "two_stage")
        if results.list_values(method, search, AVERAGE)
    ]
    rows = [
        (name, *(_plain(results.of_class(method, search, number)) for method, search in pairs))
        for number, name in enumerate(results.about["classes"])
    ]
    heading = ("class", *(f"{METHOD_NAMES[method]}, {SEARCH_NAMES[search]}" for method, search in pairs))
    return PlainTable(
        "Class by class", heading, tuple(rows), "mAP over a class's queries, both directions.", folded=True
    )


def size_table(every: Sequence[SupervisedResults], table_1: dict[str, tuple[int, ...]]) -> PlainTable:
    """The sets' sizes beside the paper's."""
    order = ("classes", "train", "validation", "retrieval", "query")
    rows = []
    for results in every:
        about = results.about
        paper = table_1.get(about["name"])
        own = tuple(f"{about['sizes'][name]:,}" for name in order)
        widths = f"{about['widths']['image']} + {about['widths']['text']}"
        rows.append((name_of(about), widths, *own, " / ".join(f"{n:,}" for n in paper) if paper else NONE))
    heading = ("set", "features", *order, "paper's Table 1")
    notes = dict.fromkeys(f"{name_of(r.about)}: {note}." for r in every for note in r.about["notes"])
    return PlainTable("Sets", heading, tuple(rows), " ".join(notes))


def feature_tables(every: Sequence[SupervisedResults]) -> list[PlainTable]:
    """LCM's two-stage mAP over kinds of features, for each set that has several; the paper's Table 4."""
    groups: dict[str, list[SupervisedResults]] = {}
    for results in every:
        groups.setdefault(results.about["name"], []).append(results)
    tables = []
    for name, group in groups.items():
        if len(group) < 2 or any("lcm" not in results.methods for results in group):
            continue
        rows = tuple(
            (
                *_kinds(results.about["features"]),
                *(format_spread(results.list_values("lcm", "two_stage", column)) for column in COLUMNS),
            )
            for results in group
        )
        tables.append(PlainTable(f"Input features: {name}", ("images", "texts", *COLUMNS), rows, "LCM, two-stage mAP."))
    return tables


def _kinds(features: str) -> tuple[str, str]:
    image, plus, text = features.partition("+")
    return (image, text) if plus else (features or "as given", features or "as given")


def name_of(about: dict[str, Any]) -> str:
    """A set with its features."""
    return f"{about['name']} ({about['features']})" if about["features"] else str(about["name"])


def to_csv(every: Sequence[SupervisedResults]) -> str:
    """All figures, one a line: mAP, MRR, and mAP class by class."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for results in every:
        for method in results.methods:
            for search in SEARCH_NAMES:
                names = (results.about["name"], results.about["features"], method, search)
                writer.writerows((*names, *line) for line in _lines(results, method, search))
    return sink.getvalue()


def _lines(results: SupervisedResults, method: str, search: str) -> list[tuple[Any, ...]]:
    lines: list[tuple[Any, ...]] = []
    for metric in ("map", "mrr"):
        for column in COLUMNS:
            if values := results.list_values(method, search, column, metric):
                deviation = statistics.stdev(values) if len(values) > 1 else ""
                lines.append((column, metric, "", statistics.fmean(values), deviation, len(values)))
    for number, name in enumerate(results.about["classes"]):
        value = results.of_class(method, search, number)
        if not math.isnan(value):
            lines.append((AVERAGE, "map", name, value, "", sum(run["method"] == method for run in results.runs)))
    return lines


def _plain(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.3f}"
