"""Charts as inline SVG that takes its colours from the page, light or dark."""

import io
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
INK, MUTED, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0102{number:02x}" for number in range(1, 9))
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)"} | {
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
    """One picture of the page: its SVG, and in words what it shows for those who do not see it."""

    svg: str
    description: str


def look(place: int) -> tuple[str, Any]:
    """A colour and a dash pattern, so that lines differ without colour too."""
    return SERIES[place % len(SERIES)], DASHES[place % len(DASHES)]


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure of this size in inches, and its axes."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    # Figures as they are: a difference to a number in the corner is easily read wrong.
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    return figure, axes


def label_ends(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Write each line's name (height, name, colour) right of it, moved apart where names would overlap."""
    low, high = axes.get_ylim()
    ends = sorted((end for end in ends if not math.isnan(end[0])), key=lambda end: end[:2])
    heights = spread([value for value, *_ in ends], (high - low) * 0.075)
    for height, (_, label, colour) in zip(heights, ends, strict=True):
        axes.annotate(
            label,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=10,
        )


def spread(values: Sequence[float], step: float) -> list[float]:
    """Ascending heights at least ``step`` apart: values too close together become a group around their mean."""
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _overlap(groups[-2], groups[-1], step):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_middle(group) + step * (place - (len(group) - 1) / 2) for group in groups for place in range(len(group))]


def _overlap(low: list[float], high: list[float], step: float) -> bool:
    return _middle(high) - _middle(low) < step * (len(low) + len(high)) / 2


def _middle(values: list[float]) -> float:
    return statistics.fmean(values)


def svg_of(figure: Any, name: str, description: str) -> str:
    """The figure as an SVG element for a page: no prologue, its own ids, the page's colours and font."""
    sink = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Several pictures share one page, and with it one space of ids.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    text = re.sub(r"#0[0-9a-f]{5}", lambda match: VARIABLES.get(match[0], match[0]), text)
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', text)
    head = f'<svg role="img" aria-labelledby="{name}-title"'
    text = text.replace(size[0], f'style="max-width:{float(size[1]) * 4 / 3:.0f}px"', 1) if size else text
    return re.sub(
        r"<svg([^>]*)>", lambda m: f'{head}{m[1]}><title id="{name}-title">{_xml(description)}</title>', text, count=1
    )


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
