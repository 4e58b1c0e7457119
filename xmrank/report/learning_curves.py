"""Learning curves: validation hit@1 and the losses over the epochs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xmrank.config import DIRECTIONS
from xmrank.config.method_names import FIRST_STAGE
from xmrank.pages.charts import MUTED, Chart, label_ends, line_style, make_canvas, svg_of
from xmrank.pages.wording import DIRECTION_NAMES, METHOD_NAMES, format_percent, method_name
from xmrank.report.inputs import TrialRecord
from xmrank.report.result_tables import ResultTable

HIT, VALIDATION_LOSS, TRAIN_LOSS = "validation_hit@1", "validation_loss", "train_loss"


@dataclass(frozen=True)
class BestEpochs:
    """The epochs of a loss that were kept, one for each seed, and their validation hit@1."""

    label: str
    epochs: tuple[int | float, ...]
    hits: tuple[float, ...]


@dataclass(frozen=True)
class LearningCurves:
    """The learning curves of one direction."""

    direction: str
    hit: Chart | None
    losses: tuple[Chart, ...]
    best: tuple[BestEpochs, ...]

    @property
    def title(self) -> str:
        """The direction as a heading."""
        return DIRECTION_NAMES.get(self.direction, self.direction)


def draw_learning_curves(
    trials: Sequence[TrialRecord], tables: Sequence[ResultTable], split: str
) -> list[LearningCurves]:
    """The curves of every direction that was trained.

    Args:
        trials: the histories, losses in the order of their colours.
        tables: have the first stage's level on the candidate lists.
        split: the split of that level.
    """
    # A loss has the same colour in both directions.
    losses = dict.fromkeys(trial.loss for trial in trials)
    colour_indices = {loss: index for index, loss in enumerate(losses)}
    curves = []
    for direction in DIRECTIONS:
        own = [trial for trial in trials if trial.direction == direction]
        if own:
            curves.append(_draw_direction(direction, own, colour_indices, tables, split))
    return curves


def _draw_direction(
    direction: str, trials: list[TrialRecord], colour_indices: dict[str, int], tables: Sequence[ResultTable], split: str
) -> LearningCurves:
    by_loss: dict[str, list[TrialRecord]] = {}
    for loss in colour_indices:
        seeds = [trial for trial in trials if trial.loss == loss]
        if seeds:
            by_loss[loss] = seeds
    level = _first_stage_level(tables, direction)
    best = [_best_epochs(loss, seeds) for loss, seeds in by_loss.items()]
    # A training without validation has losses only.
    drawn = any(not math.isnan(value) for trial in trials for value in trial.values_over_epochs(HIT))
    return LearningCurves(
        direction,
        _draw_hits(direction, by_loss, colour_indices, level, split, best) if drawn else None,
        tuple(_draw_loss(direction, loss, seeds, colour_indices[loss]) for loss, seeds in by_loss.items()),
        tuple(best),
    )


def _first_stage_level(tables: Sequence[ResultTable], direction: str) -> float | None:
    for table in tables:
        # Validation is on lists, so the level on lists is the one to compare with.
        if table.protocol == "lists" and table.direction == direction and table.first_stage:
            cell = table.first_stage.cells.get("hit@1")
            return cell.mean if cell else None
    return None


def _best_epochs(loss: str, seeds: list[TrialRecord]) -> BestEpochs:
    return BestEpochs(method_name(loss), tuple(t.best_epoch for t in seeds), tuple(t.value_at_best(HIT) for t in seeds))


def _draw_hits(
    direction: str,
    by_loss: dict[str, list[TrialRecord]],
    colour_indices: dict[str, int],
    level: float | None,
    split: str,
    best: list[BestEpochs],
) -> Chart:
    figure, axes = make_canvas(5.0, 3.3)
    ends = []
    for loss, seeds in by_loss.items():
        colour, dash = line_style(colour_indices[loss])
        middle = _draw_band(axes, seeds, HIT, colour, dash, scale=100)
        # A dot where the kept weights are from.
        for trial in seeds:
            axes.plot([trial.best_epoch], [100 * trial.value_at_best(HIT)], "o", color=colour, markersize=5)
        ends.append((middle[-1], method_name(loss), colour))
    if level is not None:
        axes.axhline(100 * level, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        ends.append(
            (100 * level, f"{METHOD_NAMES[FIRST_STAGE]} ({split})" if split else METHOD_NAMES[FIRST_STAGE], MUTED)
        )
    axes.set_ylabel("hit@1 on validation lists, %")
    axes.set_xlabel("epoch")
    label_ends(axes, ends)
    described = "; ".join(f"{b.label} {_describe_hits(b)}" for b in best)
    words = f"Validation hit@1 per epoch, {DIRECTION_NAMES.get(direction, direction)}. At the best epochs: {described}."
    if level is not None:
        words += f" Dashed: the first stage's {format_percent(level)} % on the {split} lists."
    return Chart(svg_of(figure, f"hit-{direction}", words), words)


def _describe_hits(best: BestEpochs) -> str:
    return ", ".join(
        f"{format_percent(hit)} % (epoch {epoch})" for hit, epoch in zip(best.hits, best.epochs, strict=True)
    )


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
    axes: Any, seeds: list[TrialRecord], key: str, colour: str, dash: Any, *, scale: float = 1, thin: bool = False
) -> list[float]:
    """Draw the mean over seeds as a line and the seeds' range as a band; returns the line's heights."""
    # Seeds may have stopped at different epochs: every epoch has the seeds that reached it.
    epochs = sorted({number for trial in seeds for number in trial.epoch_numbers})
    curves = [dict(zip(trial.epoch_numbers, trial.values_over_epochs(key), strict=True)) for trial in seeds]
    columns = [[scale * curve[e] for curve in curves if not math.isnan(curve.get(e, math.nan))] for e in epochs]
    middle = [statistics.fmean(column) if column else math.nan for column in columns]
    low = [min(column, default=math.nan) for column in columns]
    high = [max(column, default=math.nan) for column in columns]
    if len(seeds) > 1:
        axes.fill_between(epochs, low, high, color=colour, alpha=0.14, linewidth=0)
    # A line through a single epoch would be invisible.
    marker = "." if len(epochs) == 1 else None
    axes.plot(epochs, middle, color=colour, linestyle=dash, marker=marker, linewidth=1.1 if thin else 1.8)
    return middle
