"""Pictures of a supervised experiment: mAP over told labels and over what methods cost, and t-SNE."""

import math
import statistics
from typing import Any

from xmrank.pages.charts import MUTED, SERIES, Chart, line_style, make_canvas, svg_of
from xmrank.supervised.claim_tables import told_shares
from xmrank.supervised.lcm_tables import METHOD_NAMES, SupervisedResults
from xmrank.supervised.map_evaluation import NAIVE, PREDICTED, RECALLS, TWO_STAGE, share_name

MARKERS = {"training images": ".", "training texts": ".", "query images": "x", "query texts": "+"}
"""The mark of a kind of item in the pictures of the common space."""
COSTS = {
    "seconds": ("seconds to train, one thread", 0.01),
    "parameters": ("numbers that embed images and texts", 100),
    "peak_mib": ("MiB of memory to train", 1.0),
}
"""What a run costs, as in timing.json → the name of its axis, and where the axis starts."""


def draw_shares(results: SupervisedResults, name: str) -> Chart | None:
    """Two-stage mAP over the share of told labels, a line a method; None where only 0 and 1 were measured."""
    shares = told_shares(results)
    if not shares:
        return None
    figure, axes = make_canvas(7.2, 4.6)
    searches = [PREDICTED, *map(share_name, shares), TWO_STAGE]
    for number, method in enumerate(m for m in results.methods if results.list_values(m, TWO_STAGE, "average")):
        colour, dashes = line_style(number)
        values = [results.average_runs(method, search) for search in searches]
        told = [0.0, *(100 * share for share in shares), 100.0]
        axes.plot(told, values, color=colour, linestyle=dashes, label=METHOD_NAMES[method])
    axes.set_xlabel("labels of the retrieval set that stage 2 is told (%)")
    axes.set_ylabel("mAP")
    axes.grid(axis="y")
    # More lines than names have room for at their ends.
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    description = "Two-stage mAP over the share of the retrieval set whose labels are told, one line a method"
    return Chart(svg_of(figure, name, description), description)


def draw_cost(results: SupervisedResults, cost: str, name: str) -> Chart | None:
    """mAP by distance (open) and by two-stage search (filled) over one cost; None where it was not measured.

    Args:
        results: of one set.
        cost: one of ``COSTS``.
        name: of the picture, for its marks.
    """
    title, least = COSTS[cost]
    costs = {method: results.mean_cost(method, cost) for method in results.methods}
    if all(map(math.isnan, costs.values())):
        return None
    figure, axes = make_canvas(7.2, 4.6)
    for number, (method, value) in enumerate(costs.items()):
        colour, _ = line_style(number)
        # The axis is logarithmic: less than it shows stands at its start.
        across = max(least, value)
        for search, face in ((NAIVE, "none"), (TWO_STAGE, colour)):
            up = results.average_runs(method, search)
            if math.isnan(up) or math.isnan(value):
                continue
            axes.scatter([across], [up], s=30, marker="o", facecolors=face, edgecolors=colour)
            if search == TWO_STAGE:
                axes.annotate(METHOD_NAMES[method], (across, up), (4, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel(title)
    axes.set_ylabel("mAP")
    axes.grid(axis="y")
    description = f"mAP over {title}: open circles by distance, filled ones by two-stage search"
    return Chart(svg_of(figure, name, description), description)


def draw_recall(results: SupervisedResults, name: str) -> Chart:
    """Precision over recall by distance, mean of directions and runs, a line a method."""
    figure, axes = make_canvas(7.2, 4.6)
    for number, method in enumerate(results.methods):
        own = [row for run in results.runs if run["method"] == method for row in run["rows"]]
        curves = [row["precision_at_recall"] for row in own if row["search"] == NAIVE]
        if curves:
            colour, dashes = line_style(number)
            means = [statistics.fmean(values) for values in zip(*curves, strict=True)]
            axes.plot(
                [100 * level for level in RECALLS], means, color=colour, linestyle=dashes, label=METHOD_NAMES[method]
            )
    axes.set_xlabel("recall (%)")
    axes.set_ylabel("precision")
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    description = "Interpolated precision over recall by distance, one line a method"
    return Chart(svg_of(figure, name, description), description)


def draw_scatter(picture: dict[str, Any], name: str) -> Chart:
    """Points in the plane: the colour is the class (eight colours in turn), the marker the kind of item."""
    figure, axes = make_canvas(4.6, 4.6)
    axes.set_axis_off()
    axes.set_title(picture["title"], fontsize=11)
    classes = sorted({label for group in picture["groups"] for label in group["labels"]})
    for group in picture["groups"]:
        for label in sorted(set(group["labels"])):
            points = [p for p, own in zip(group["points"], group["labels"], strict=True) if own == label]
            across, up = zip(*points, strict=True)
            axes.scatter(across, up, s=12, marker=MARKERS[group["name"]], color=SERIES[label % len(SERIES)], lw=0.8)
        # For the legend: the kind without a class.
        axes.scatter([], [], s=18, marker=MARKERS[group["name"]], color=MUTED, lw=0.8, label=group["name"])
    told_apart = len(classes) <= len(SERIES)
    for label in classes if told_apart else ():
        named = f"class {label + 1}" if label >= 0 else "no class"
        axes.scatter([], [], s=18, marker="s", color=SERIES[label % len(SERIES)], label=named)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=3)
    kinds = " and ".join(f"{len(group['points'])} {group['name']}" for group in picture["groups"])
    colours = "one colour a class" if told_apart else f"{len(classes)} classes in {len(SERIES)} colours, in turn"
    description = f"t-SNE of LCM's common space: {kinds}; {colours}"
    return Chart(svg_of(figure, name, description), f"{picture['title']}: {kinds}; {colours}")
