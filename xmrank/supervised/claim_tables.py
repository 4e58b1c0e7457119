"""Where two-stage search has its gain from: tests over queries, labels for a share, numbers of neighbours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xmrank.config import DIRECTIONS
from xmrank.metrics import holm_correction, paired_differences, paired_tests, seed_spread
from xmrank.metrics.significance import PairedTests
from xmrank.supervised.lcm_tables import (
    AVERAGE,
    METHOD_NAMES,
    NONE,
    PlainTable,
    SupervisedResults,
    format_gain,
    format_spread,
)
from xmrank.supervised.map_evaluation import NAIVE, PREDICTED, TWO_STAGE, count_name, share_name

CHANGES = {
    "two-stage − distance": (TWO_STAGE, NAIVE),
    "labels predicted − distance": (PREDICTED, NAIVE),
}
"""Title → the two searches that are compared."""


@dataclass(frozen=True)
class SearchChange:
    """What a search changes for a method: a test over query pairs, and the spread over seeds."""

    method: str
    title: str
    test: PairedTests
    seeds: str


def query_values(queries: pd.DataFrame, method: str, search: str) -> np.ndarray:
    """Average precision of each pair of queries, mean of both directions, [seeds, pairs]; empty without the search.

    Args:
        queries: metrics.parquet of one set.
    """
    own = queries[(queries.method == method) & (queries.search == search) & (queries.metric == "ap")]
    values = []
    for _, rows in own.groupby("seed", sort=True):
        by_direction = [rows[rows.direction == d].sort_values("query")["value"].to_numpy() for d in DIRECTIONS]
        values.append(np.mean(by_direction, axis=0))
    return np.array(values) if values else np.empty((0, 0))


def compare_searches(queries: pd.DataFrame, methods: Sequence[str]) -> list[SearchChange]:
    """Every change of every method; p corrected by Holm over all of them."""
    changes = []
    for method in methods:
        for title, (search, other) in CHANGES.items():
            ours, theirs = (query_values(queries, method, name) for name in (search, other))
            if not len(ours) or not len(theirs):
                continue
            test = paired_tests(paired_differences(ours[:, :, None], theirs[:, :, None]))
            spread = seed_spread(np.nanmean(ours - theirs, axis=1))
            seeds = f"{spread.agreeing} of {spread.seeds}"
            changes.append(SearchChange(method, title, test, seeds))
    return changes


def significance_table(results: SupervisedResults) -> PlainTable:
    """Whether two-stage search changes a method's mAP: interval and test over queries, seeds apart."""
    changes = compare_searches(results.queries, results.methods)
    corrected = holm_correction([float(change.test.p[0]) for change in changes])
    rows = []
    for change, p in zip(changes, corrected, strict=True):
        low, high = (format_gain(float(end[0]), 0.0) for end in (change.test.low, change.test.high))
        difference = format_gain(float(change.test.difference[0]), 0.0)
        rows.append(
            (METHOD_NAMES[change.method], change.title, difference, f"{low} to {high}", f"{p:.4f}", change.seeds)
        )
    heading = ("method", "change", "points of mAP", "95 % interval", "p (Holm)", "seeds of its sign")
    note = (
        "Average precision of a pair, mean of image and text query and of all seeds; intervals by the bootstrap over "
        "pairs (10,000 draws), p by random signs, corrected over all rows."
    )
    return PlainTable("Significance over queries", heading, tuple(rows), note)


def share_table(results: SupervisedResults) -> PlainTable:
    """mAP by the share of the retrieval set whose labels stage 2 is told, and what remains of the gain without any."""
    shares = told_shares(results)
    searches = [PREDICTED, *(share_name(share) for share in shares), TWO_STAGE]
    rows = []
    for method in results.methods:
        means = [results.average_runs(method, search) for search in searches]
        if math.isnan(means[-1]):
            continue
        naive = results.average_runs(method, NAIVE)
        cells = [format_spread(results.list_values(method, search, AVERAGE)) for search in (NAIVE, *searches)]
        rows.append((METHOD_NAMES[method], *cells, format_remaining(naive, means[0], means[-1])))
    heading = (
        *("method", "distance", "0 %"),
        *(f"{100 * share:g} %" for share in shares),
        *("100 %", "gain that remains at 0 %"),
    )
    note = (
        "Two-stage mAP, average of both directions, where stage 2 is told the labels of a share of the retrieval set "
        "and predicts the others. The last column is the change at 0 % as a share of that at 100 %."
    )
    return PlainTable("Labels of the retrieval set", heading, tuple(rows), note)


def format_remaining(naive: float, untold: float, told: float) -> str:
    """The share of a gain that remains: (untold − naive) / (told − naive)."""
    if math.isnan(naive) or told <= naive:
        return NONE
    return f"{100 * (untold - naive) / (told - naive):.0f} %".replace("-", "−")


def neighbour_table(results: SupervisedResults) -> PlainTable:
    """Two-stage mAP by the number of neighbours in stage 1; empty where there is no other number."""
    counts = sorted({int(search.split("_")[2]) for search in searches_of(results) if search.endswith("_neighbours")})
    rows = []
    for method in results.methods:
        cells = [format_spread(results.list_values(method, count_name(count), AVERAGE)) for count in counts]
        if any(cell != NONE for cell in cells):
            rows.append((METHOD_NAMES[method], *cells))
    heading = ("method", *(f"K = {count}" for count in counts))
    return PlainTable("Neighbours in stage 1", heading, tuple(rows), "Two-stage mAP with all true labels, average.")


def searches_of(results: SupervisedResults) -> set[str]:
    """Names of all searches that were measured."""
    return {row["search"] for run in results.runs for row in run["rows"]}


def told_shares(results: SupervisedResults) -> list[float]:
    """The shares between 0 and 1 that were measured, ascending."""
    names = [name for name in searches_of(results) if name.endswith("_percent")]
    return sorted(float(name.split("_")[2]) / 100 for name in names)
