"""What of a search mattered: the share of each setting in how the points differ, and the best points."""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmrank.pages.charts import Chart, canvas, look, svg_of
from xmrank.pages.wording import DIRECTION_NAMES, method_name, percent, plain

BEST_SHOWN = 5
LEAST_POINTS = 4
"""With fewer points nothing can be said of what matters."""


@dataclass(frozen=True)
class HyperparameterImportance:
    """The search of one loss in one direction.

    Attributes:
        points: how many were trained to a figure.
        shares: setting → its share of the variance between points, the largest first; empty where points are too few
            or all alike.
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
        """Which loss, and who asks for what."""
        return f"{method_name(self.loss)}, {DIRECTION_NAMES.get(self.direction, self.direction)}"


def searches(path: Path | None) -> list[HyperparameterImportance]:
    """The search that chose the rankers' settings, a loss and direction at a time.

    Args:
        path: its results.json; None where nothing was searched.
    """
    if path is None:
        return []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in json.loads(path.read_text()):
        groups.setdefault((row["loss"], row["direction"]), []).append(row)
    return [_searched(number, *key, rows) for number, (key, rows) in enumerate(groups.items())]


def _searched(number: int, loss: str, direction: str, rows: list[dict[str, Any]]) -> HyperparameterImportance:
    done = sorted((row for row in rows if row["value"] is not None), key=lambda row: -row["value"])
    best = tuple((plain(row["settings"]), row["value"]) for row in done[:BEST_SHOWN])
    found = HyperparameterImportance(loss, direction, len(done), shares_of(done), best, None)
    return HyperparameterImportance(
        loss, direction, len(done), found.shares, best, _chart(number, found) if found.shares else None
    )


def shares_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each setting's share of the variance of the validation figure over the points, summing to 1.

    Functional ANOVA over a random forest that is fitted to the points, as Optuna computes it.

    Args:
        rows: points with their settings and value.

    Source: Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing hyperparameter importance", ICML 2014.
    """
    names = sorted({name for row in rows for name in row["settings"]})
    values = {name: {json.dumps(row["settings"].get(name)) for row in rows} for name in names}
    varied = [name for name in names if len(values[name]) > 1]
    if len(rows) < LEAST_POINTS or not varied or len({row["value"] for row in rows}) < 2:
        return {}
    shares = _evaluated(rows, varied)
    return {name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if not math.isnan(share)}


def _evaluated(rows: Sequence[dict[str, Any]], names: list[str]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _distribution([row["settings"].get(name) for row in rows]) for name in names}
    study = optuna.create_study(direction="maximize")
    for row in rows:
        settings = {name: _choice(row["settings"].get(name)) for name in names}
        study.add_trial(optuna.trial.create_trial(params=settings, distributions=space, value=row["value"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(values: list[Any]) -> Any:
    """Numbers that were drawn from a range as a range; few different values as a choice."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    drawn = all(isinstance(value, float) for value in values) and len(set(values)) == len(values)
    if not drawn:
        return CategoricalDistribution(sorted({_choice(value) for value in values}, key=str))
    low, high = min(values), max(values)
    return FloatDistribution(low, high, log=low > 0 and high / low > 10)


def _choice(value: Any) -> Any:
    """A value that Optuna takes as a choice."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


def _chart(number: int, searched: HyperparameterImportance) -> Chart:
    names = list(searched.shares)
    figure, axes = canvas(5.0, 0.9 + 0.34 * len(names))
    colour, _ = look(0)
    axes.barh(range(len(names)), [100 * searched.shares[name] for name in names], color=colour, height=0.6)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.set_xlabel("share of the variance between points, %")
    told = "; ".join(f"{name} {percent(share)} %" for name, share in searched.shares.items())
    words = f"What mattered in the search of {searched.title}, {searched.points} points: {told}."
    return Chart(svg_of(figure, f"importance-{number}", words), words)
