"""Pictures of a supervised experiment beside t-SNE: mAP over told labels, and mAP over what methods cost."""

import math
import statistics

from xmrank.pages.charts import Chart, line_style, make_canvas, svg_of
from xmrank.supervised.claim_tables import told_shares
from xmrank.supervised.lcm_tables import METHOD_NAMES, SupervisedResults
from xmrank.supervised.map_evaluation import NAIVE, PREDICTED, RECALLS, TWO_STAGE, share_name

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
