"""Charts as inline SVG that takes its colours from the page, light or dark."""

import io
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# What matplotlib draws in these colours is written as a variable of the page's style sheet.
INK, MUTED, GRID, UP, DOWN = "#010101", "#010102", "#010103", "#010104", "#010105"
SERIES = tuple(f"#0102{number:02x}" for number in range(1, 9))
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", UP: "var(--up)", DOWN: "var(--down)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
DASHES = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xmrank",
    "font.size": 11.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Chart:
    """One picture of the page: its SVG, and a description for those who do not see it."""

    svg: str
    description: str


@dataclass(frozen=True)
class HoverLine:
    """What is shown of a line where the pointer is: its name, its colour and, by x, its value in words."""

    label: str
    colour: str
    values: dict[float, str]


def line_style(number: int) -> tuple[str, Any]:
    """The colour and dash pattern of a line by its number; lines also differ without colour."""
    return SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]


def make_canvas(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure of this size in inches, and its axes."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
    # The page's own background shows through, light or dark.
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    # Few round ticks, and whole numbers for epochs.
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    # Plain numbers: matplotlib would print differences to an offset in the corner, which is easily misread.
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    return figure, axes


def write_beside(axes: Any, text: str, height: float, colour: str) -> None:
    """Write a text to the right of a chart, at a height of its axis."""
    axes.annotate(
        text,
        (1, height),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=10,
    )


def label_ends(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Write each line's name right of it, moved where names would overlap.

    Args:
        axes: of the chart.
        ends: height, name and colour of each line.
    """
    # The distance is in the units of the axis: a line of text is about 7.5 % of its height.
    low, high = axes.get_ylim()
    ends = sorted((end for end in ends if not math.isnan(end[0])), key=lambda end: end[:2])
    heights = spread_heights([value for value, *_ in ends], (high - low) * 0.075)
    for height, (_, label, colour) in zip(heights, ends, strict=True):
        write_beside(axes, label, height, colour)


def spread_heights(values: Sequence[float], step: float) -> list[float]:
    """Heights near the values, ascending, with at least ``step`` between them.

    Values that are too close become a group around their mean.
    """
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        # A merged group is wider and may now overlap the one below it.
        while len(groups) > 1 and _do_overlap(groups[-2], groups[-1], step):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [
        _mean_height(group) + step * (position - (len(group) - 1) / 2)
        for group in groups
        for position in range(len(group))
    ]


def _do_overlap(low: list[float], high: list[float], step: float) -> bool:
    return _mean_height(high) - _mean_height(low) < step * (len(low) + len(high)) / 2


def _mean_height(values: list[float]) -> float:
    return statistics.fmean(values)


def svg_of(figure: Any, name: str, description: str, hover: str = "") -> str:
    """The figure as an SVG element: without a prologue, with ids of its own, in the page's colours and font.

    Args:
        figure: of matplotlib.
        name: of the chart, another one for each of a page.
        description: for those who do not see it.
        hover: what `describe_hover` gives.
    """
    sink = io.StringIO()
    with rc_context(STYLE):
        # Without date and creator, the same figures give the same file.
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    # An SVG inside HTML has no XML prologue.
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # The pictures of a page share its ids: each gets a prefix of its own.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    # The marker colours become variables of the style sheet.
    text = re.sub(r"#0[0-9a-f]{5}", lambda match: VARIABLES.get(match[0], match[0]), text)
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', text)
    head = f'<svg role="img" aria-labelledby="{name}-title"'
    head += f' data-hover="{_escape_xml(hover)}"' if hover else ""
    text = text.replace(size[0], f'style="max-width:{float(size[1]) * 4 / 3:.0f}px"', 1) if size else text
    title = f'<title id="{name}-title">{_escape_xml(description)}</title>'
    return re.sub(r"<svg([^>]*)>", lambda match: f"{head}{match[1]}>{title}", text, count=1)


def describe_hover(axes: Any, lines: Sequence[HoverLine], unit: str) -> str:
    """What the page's script shows under the pointer, as JSON: for each x, where it is and the lines' values there.

    Args:
        axes: of a chart that is drawn; nothing may be added to it after this.
        lines: those of the chart, in the order in which they are listed.
        unit: what x is: "epoch", "k".
    """
    figure = axes.figure
    figure.draw_without_rendering()
    stops = []
    for x in sorted({x for line in lines for x in line.values}):
        across = axes.transData.transform((x, axes.get_ylim()[0]))[0] / figure.bbox.width
        shown = [[line.label, line.values[x], VARIABLES[line.colour]] for line in lines if x in line.values]
        stops.append({"at": round(float(across), 4), "label": f"{unit} {x:g}", "lines": shown})
    return json.dumps(stops, ensure_ascii=False) if stops else ""


def _escape_xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
