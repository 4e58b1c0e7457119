"""Hyper-parameter importance: how much each setting of a search explains of the results, and the best points."""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xmrank.pages.charts import Chart, line_style, make_canvas, svg_of
from xmrank.pages.wording import DIRECTION_NAMES, describe_value, format_percent, method_name

BEST_SHOWN = 5
LEAST_POINTS = 4
"""With fewer points, importance cannot be estimated."""


@dataclass(frozen=True)
class HyperparameterImportance:
    """The search of one loss in one direction.

    Attributes:
        points: how many were trained and validated.
        shares: setting → its share of the variance between points, the largest first; empty where there are too few
            points or all are alike.
        best: the best points, each with its settings in words and its validation figure.
    """

    loss: str
    direction: str
    points: int
    shares: dict[str, float]
    best: tuple[tuple[str, float], ...]
    chart: Chart | None

    @property
    def title(self) -> str:
        """The loss and the direction."""
        return f"{method_name(self.loss)}, {DIRECTION_NAMES.get(self.direction, self.direction)}"


def importance_of_searches(path: Path | None) -> list[HyperparameterImportance]:
    """The importance in the search that chose the rankers' settings, for each loss and direction.

    Args:
        path: its results.json; None where nothing was importance.
    """
    if path is None:
        return []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in json.loads(path.read_text()):
        groups.setdefault((row["loss"], row["direction"]), []).append(row)
    return [_search_importance(number, *key, rows) for number, (key, rows) in enumerate(groups.items())]


def _search_importance(number: int, loss: str, direction: str, rows: list[dict[str, Any]]) -> HyperparameterImportance:
    # Points that failed have no value.
    done = sorted((row for row in rows if row["value"] is not None), key=lambda row: -row["value"])
    best = tuple((describe_value(row["settings"]), row["value"]) for row in done[:BEST_SHOWN])
    importance = HyperparameterImportance(loss, direction, len(done), variance_shares(done), best, None)
    return replace(importance, chart=_draw_shares(number, importance)) if importance.shares else importance


def variance_shares(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each setting's share of the variance of the validation figure over the points, summing to 1.

    Functional ANOVA over a random forest that is fitted to the points, as Optuna computes it.

    Args:
        rows: points with their settings and value.

    Source: Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing hyperparameter importance", ICML 2014.
    """
    # Points may have different settings: those of the chosen ranker, for example.
    names = sorted({name for row in rows for name in row["settings"]})
    values = {name: {json.dumps(row["settings"].get(name)) for row in rows} for name in names}
    # A setting with one value explains nothing.
    varied = [name for name in names if len(values[name]) > 1]
    if len(rows) < LEAST_POINTS or not varied or len({row["value"] for row in rows}) < 2:
        return {}
    shares = _fanova_shares(rows, varied)
    # The forest gives NaN where it never split.
    return {name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if not math.isnan(share)}


def _fanova_shares(rows: Sequence[dict[str, Any]], names: list[str]) -> dict[str, float]:
    # Optuna takes a while to import, and only a report of a search needs it.
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _make_distribution([row["settings"].get(name) for row in rows]) for name in names}
    # The points become trials of a study that is already finished.
    study = optuna.create_study(direction="maximize")
    for row in rows:
        settings = {name: _category(row["settings"].get(name)) for name in names}
        study.add_trial(optuna.trial.create_trial(params=settings, distributions=space, value=row["value"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _make_distribution(values: list[Any]) -> Any:
    """A range for numbers that were drawn from one; a choice for few different values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    # Values of a grid repeat; values drawn from a range do not.
    drawn = all(isinstance(value, float) for value in values) and len(set(values)) == len(values)
    if not drawn:
        return CategoricalDistribution(sorted({_category(value) for value in values}, key=str))
    low, high = min(values), max(values)
    # A range over more than a factor of ten was searched in its logarithm.
    return FloatDistribution(low, high, log=low > 0 and high / low > 10)


def _category(value: Any) -> Any:
    """A value in a type that Optuna takes as a choice."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


def _draw_shares(number: int, importance: HyperparameterImportance) -> Chart:
    names = list(importance.shares)
    figure, axes = make_canvas(5.0, 0.9 + 0.34 * len(names))
    colour, _ = line_style(0)
    axes.barh(range(len(names)), [100 * importance.shares[name] for name in names], color=colour, height=0.6)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    # The largest share is on top.
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.set_xlabel("share of the variance between points, %")
    described = "; ".join(f"{name} {format_percent(share)} %" for name, share in importance.shares.items())
    words = f"Hyper-parameter importance in the search of {importance.title}, {importance.points} points: {described}."
    return Chart(svg_of(figure, f"importance-{number}", words), words)
