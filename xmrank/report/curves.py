"""Learning curves as inline SVG that takes its colours from the page, light or dark."""

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

from xmrank.config import DIRECTIONS
from xmrank.report.inputs import Trial
from xmrank.report.tables import ResultTable
from xmrank.report.text import DIRECTION_NAMES, METHOD_NAMES, method_name, percent

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
HIT, SELECTION_LOSS, TRAIN_LOSS = "selection_hit@1", "selection_loss", "train_loss"


@dataclass(frozen=True)
class Chart:
    """One picture of the page: its SVG, and in words what it shows for those who do not see it."""

    svg: str
    description: str


@dataclass(frozen=True)
class BestEpochs:
    """Which epochs of a loss were kept, a seed."""

    label: str
    epochs: tuple[int | float, ...]
    hits: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """The learning curves of one direction."""

    direction: str
    hit: Chart | None
    losses: tuple[Chart, ...]
    best: tuple[BestEpochs, ...]

    @property
    def title(self) -> str:
        """Who asks for what."""
        return DIRECTION_NAMES.get(self.direction, self.direction)


def learning_curves(trials: Sequence[Trial], tables: Sequence[ResultTable], split: str) -> list[Curves]:
    """The curves of every direction that was trained.

    Args:
        trials: the histories, losses in the order of their colours.
        tables: where the first stage's level on the candidate lists comes from.
        split: the split of that level.
    """
    # One place a loss over both directions, so that a loss keeps its colour.
    places = {loss: place for place, loss in enumerate(dict.fromkeys(t.loss for t in trials))}
    return [
        _direction_curves(direction, [t for t in trials if t.direction == direction], places, tables, split)
        for direction in DIRECTIONS
        if any(trial.direction == direction for trial in trials)
    ]


def _direction_curves(
    direction: str, trials: list[Trial], places: dict[str, int], tables: Sequence[ResultTable], split: str
) -> Curves:
    by_loss = {loss: [t for t in trials if t.loss == loss] for loss in places if any(t.loss == loss for t in trials)}
    level = _first_stage_level(tables, direction)
    best = [_best_epochs(loss, seeds) for loss, seeds in by_loss.items()]
    drawn = any(not math.isnan(value) for trial in trials for value in trial.curve(HIT))
    return Curves(
        direction,
        _hit_chart(direction, by_loss, places, level, split, best) if drawn else None,
        tuple(_loss_chart(direction, loss, seeds, places[loss]) for loss, seeds in by_loss.items()),
        tuple(best),
    )


def _first_stage_level(tables: Sequence[ResultTable], direction: str) -> float | None:
    for table in tables:
        if table.protocol == "lists" and table.direction == direction and table.first_stage:
            cell = table.first_stage.cells.get("hit@1")
            return cell.mean if cell else None
    return None


def _best_epochs(loss: str, seeds: list[Trial]) -> BestEpochs:
    return BestEpochs(method_name(loss), tuple(t.best_epoch for t in seeds), tuple(t.best(HIT) for t in seeds))


def _hit_chart(
    direction: str,
    by_loss: dict[str, list[Trial]],
    places: dict[str, int],
    level: float | None,
    split: str,
    best: list[BestEpochs],
) -> Chart:
    figure, axes = _canvas(5.0, 3.3)
    ends = []
    for loss, seeds in by_loss.items():
        colour, dash = _look(places[loss])
        middle = _band(axes, seeds, HIT, colour, dash, scale=100)
        for trial in seeds:
            axes.plot([trial.best_epoch], [100 * trial.best(HIT)], "o", color=colour, markersize=5)
        ends.append((middle[-1], method_name(loss), colour))
    if level is not None:
        axes.axhline(100 * level, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        ends.append((100 * level, f"{METHOD_NAMES['cosine']} ({split})" if split else METHOD_NAMES["cosine"], MUTED))
    axes.set_ylabel("hit@1 on selection lists, %")
    axes.set_xlabel("epoch")
    _label_ends(axes, ends)
    told = "; ".join(f"{b.label} {_hits(b)}" for b in best)
    words = f"Selection hit@1 per epoch, {DIRECTION_NAMES.get(direction, direction)}. At the best epochs: {told}."
    if level is not None:
        words += f" Dashed: the first stage's {percent(level)} % on the {split} lists."
    return Chart(_svg(figure, f"hit-{direction}", words), words)


def _hits(best: BestEpochs) -> str:
    return ", ".join(f"{percent(hit)} % (epoch {epoch})" for hit, epoch in zip(best.hits, best.epochs, strict=True))


def _loss_chart(direction: str, loss: str, seeds: list[Trial], place: int) -> Chart:
    figure, axes = _canvas(2.9, 2.1)
    colour, _ = _look(place)
    _band(axes, seeds, SELECTION_LOSS, colour, "-")
    _band(axes, seeds, TRAIN_LOSS, colour, (0, (3, 2)), thin=True)
    for epoch in sorted({trial.best_epoch for trial in seeds}):
        axes.axvline(epoch, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_title(method_name(loss), loc="left", fontsize=11)
    words = (
        f"{method_name(loss)}, {DIRECTION_NAMES.get(direction, direction)}: loss per epoch; "
        f"best epochs {', '.join(str(t.best_epoch) for t in seeds)}."
    )
    return Chart(_svg(figure, f"loss-{direction}-{place}", words), words)


def _look(place: int) -> tuple[str, Any]:
    """A colour and a dash pattern, so that lines differ without colour too."""
    return SERIES[place % len(SERIES)], DASHES[place % len(DASHES)]


def _canvas(width: float, height: float) -> tuple[Any, Any]:
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


def _band(
    axes: Any, seeds: list[Trial], key: str, colour: str, dash: Any, *, scale: float = 1, thin: bool = False
) -> list[float]:
    """Draw the mean over seeds as a line and the seeds' range as a band; returns the line's heights."""
    epochs = sorted({number for trial in seeds for number in trial.numbers})
    curves = [dict(zip(trial.numbers, trial.curve(key), strict=True)) for trial in seeds]
    columns = [[scale * curve[e] for curve in curves if not math.isnan(curve.get(e, math.nan))] for e in epochs]
    middle = [statistics.fmean(column) if column else math.nan for column in columns]
    low = [min(column, default=math.nan) for column in columns]
    high = [max(column, default=math.nan) for column in columns]
    if len(seeds) > 1:
        axes.fill_between(epochs, low, high, color=colour, alpha=0.14, linewidth=0)
    marker = "." if len(epochs) == 1 else None
    axes.plot(epochs, middle, color=colour, linestyle=dash, marker=marker, linewidth=1.1 if thin else 1.8)
    return middle


def _label_ends(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Write each line's name right of it, moved apart where names would overlap."""
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


def _svg(figure: Any, name: str, description: str) -> str:
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
