"""Learning curves: the validation mean and the losses over the epochs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmrank.config import DIRECTIONS
from xmrank.config.method_names import FIRST_STAGE
from xmrank.pages.charts import (
    MUTED,
    Chart,
    HoverLine,
    describe_hover,
    label_ends,
    line_style,
    make_canvas,
    svg_of,
)
from xmrank.pages.wording import (
    DIRECTION_NAMES,
    METHOD_NAMES,
    format_percent,
    format_percentage,
    format_points,
    method_name,
)
from xmrank.report.inputs import TrialRecord

HIT, MEAN = "validation_hit@1", "validation_mean"
VALIDATION_LOSS, TRAIN_LOSS = "validation_loss", "train_loss"
CAPTION = "Mean of hit@1, hit@5 and hit@10 on the validation lists, which chooses the epoch"


@dataclass(frozen=True)
class BestEpochs:
    """The epochs of a loss that were kept, one for each seed, and their validation hit@1."""

    label: str
    epochs: tuple[int | float, ...]
    hits: tuple[float, ...]


@dataclass(frozen=True)
class LearningCurves:
    """The learning curves of one direction.

    Attributes:
        mean: the validation mean; None for a training without validation.
        caption: what ``mean`` shows.
    """

    direction: str
    mean: Chart | None
    losses: tuple[Chart, ...]
    best: tuple[BestEpochs, ...]
    caption: str

    @property
    def title(self) -> str:
        """The direction as a heading."""
        return DIRECTION_NAMES.get(self.direction, self.direction)


def draw_learning_curves(trials: Sequence[TrialRecord], first_stage: Mapping[str, float]) -> list[LearningCurves]:
    """The curves of every direction that was trained.

    Args:
        trials: the histories, losses in the order of their colours.
        first_stage: the first stage's mean on the validation lists, by direction, where it is known.
    """
    # A loss has the same colour in both directions.
    losses = dict.fromkeys(trial.loss for trial in trials)
    colour_indices = {loss: index for index, loss in enumerate(losses)}
    curves = []
    for direction in DIRECTIONS:
        own = [trial for trial in trials if trial.direction == direction]
        if own:
            curves.append(_draw_direction(direction, own, colour_indices, first_stage.get(direction)))
    return curves


def _draw_direction(
    direction: str, trials: list[TrialRecord], colour_indices: dict[str, int], level: float | None
) -> LearningCurves:
    by_loss: dict[str, list[TrialRecord]] = {}
    for loss in colour_indices:
        seeds = [trial for trial in trials if trial.loss == loss]
        if seeds:
            by_loss[loss] = seeds
    # A training without validation has losses only.
    drawn = any(not math.isnan(value) for trial in trials for value in trial.values_over_epochs(MEAN))
    return LearningCurves(
        direction,
        _draw_means(direction, by_loss, colour_indices, level) if drawn else None,
        tuple(_draw_loss(direction, loss, seeds, colour_indices[loss]) for loss, seeds in by_loss.items()),
        tuple(_best_epochs(loss, seeds) for loss, seeds in by_loss.items()),
        CAPTION if level is None else f"{CAPTION}, minus the first stage’s {format_percentage(level)} there",
    )


def _best_epochs(loss: str, seeds: list[TrialRecord]) -> BestEpochs:
    return BestEpochs(method_name(loss), tuple(t.best_epoch for t in seeds), tuple(t.value_at_best(HIT) for t in seeds))


def _draw_means(
    direction: str, by_loss: dict[str, list[TrialRecord]], colour_indices: dict[str, int], level: float | None
) -> Chart:
    """The validation mean over the epochs, as the difference to the first stage where its mean is known."""
    figure, axes = make_canvas(5.0, 3.3)
    ends, lines, described, zero = [], [], [], level or 0.0
    show = format_percent if level is None else format_points
    for loss, seeds in by_loss.items():
        colour, dash = line_style(colour_indices[loss])
        middle = _draw_band(axes, seeds, MEAN, colour, dash, scale=100, zero=zero)
        # A dot where the kept weights are from.
        kept = [trial.value_at_best(MEAN) - zero for trial in seeds]
        axes.plot(
            [trial.best_epoch for trial in seeds], [100 * value for value in kept], "o", color=colour, markersize=5
        )
        ends.append((list(middle.values())[-1], method_name(loss), colour))
        lines.append(HoverLine(method_name(loss), colour, {epoch: show(y / 100) for epoch, y in middle.items()}))
        best = [f"{show(value)} (epoch {trial.best_epoch})" for value, trial in zip(kept, seeds, strict=True)]
        described.append(f"{method_name(loss)} {', '.join(best)}")
    if level is not None:
        axes.axhline(0, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        ends.append((0.0, METHOD_NAMES[FIRST_STAGE], MUTED))
    axes.set_ylabel("validation mean, %" if level is None else "validation mean, points over the first stage")
    axes.set_xlabel("epoch")
    label_ends(axes, ends)
    over = "" if level is None else f", points over the first stage's {format_percent(level)} %"
    words = (
        f"Validation mean per epoch{over}, {DIRECTION_NAMES.get(direction, direction)}. "
        f"At the kept epochs: {'; '.join(described)}."
    )
    return Chart(svg_of(figure, f"mean-{direction}", words, describe_hover(axes, lines, "epoch")), words)


def _draw_loss(direction: str, loss: str, seeds: list[TrialRecord], colour_index: int) -> Chart:
    figure, axes = make_canvas(2.9, 2.1)
    colour, _ = line_style(colour_index)
    _draw_band(axes, seeds, VALIDATION_LOSS, colour, "-")
    _draw_band(axes, seeds, TRAIN_LOSS, colour, (0, (3, 2)), thin=True)
    # A dotted line at each epoch that was kept.
    for epoch in sorted({trial.best_epoch for trial in seeds}):
        axes.axvline(epoch, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_title(method_name(loss), loc="left", fontsize=11)
    words = (
        f"{method_name(loss)}, {DIRECTION_NAMES.get(direction, direction)}: loss per epoch; "
        f"best epochs {', '.join(str(t.best_epoch) for t in seeds)}."
    )
    return Chart(svg_of(figure, f"loss-{direction}-{colour_index}", words), words)


def _draw_band(
    axes: Any,
    seeds: list[TrialRecord],
    key: str,
    colour: str,
    dash: Any,
    *,
    scale: float = 1,
    zero: float = 0,
    thin: bool = False,
) -> dict[float, float]:
    """Draw the mean over seeds as a line and the seeds' range as a band; returns the line's heights by epoch."""
    # Seeds may have stopped at different epochs: every epoch has the seeds that reached it.
    epochs = sorted({number for trial in seeds for number in trial.epoch_numbers})
    curves = [dict(zip(trial.epoch_numbers, trial.values_over_epochs(key), strict=True)) for trial in seeds]
    columns = [
        [scale * (curve[e] - zero) for curve in curves if not math.isnan(curve.get(e, math.nan))] for e in epochs
    ]
    middle = [statistics.fmean(column) if column else math.nan for column in columns]
    low = [min(column, default=math.nan) for column in columns]
    high = [max(column, default=math.nan) for column in columns]
    if len(seeds) > 1:
        axes.fill_between(epochs, low, high, color=colour, alpha=0.14, linewidth=0)
    # A line through a single epoch would be invisible.
    marker = "." if len(epochs) == 1 else None
    axes.plot(epochs, middle, color=colour, linestyle=dash, marker=marker, linewidth=1.1 if thin else 1.8)
    return {epoch: height for epoch, height in zip(epochs, middle, strict=True) if not math.isnan(height)}
