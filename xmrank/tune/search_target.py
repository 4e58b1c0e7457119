"""What a search needs to know of the things whose settings it searches."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmrank.tune.space import Point, Space

EPOCHS = "epochs.json"
"""File of a point in an unfinished search: the figures that it has reported, one for each epoch."""
ReportEpoch = Callable[[int, Mapping[str, float], float], None]
"""Called with a step, the metrics to log, and the figure that decides, the higher the better."""


@dataclass(frozen=True)
class SearchGroup:
    """Points that compete with one another: those of one loss and direction, one baseline, one labelled set.

    Attributes:
        title: how messages name it.
        labels: what ``results.json`` and MLflow say of its points, as {"loss": "listnet", "direction": "i2t"}.
        space: what is searched.
    """

    title: str
    labels: dict[str, str]
    space: Space


@dataclass(frozen=True)
class SearchPoint:
    """A point of a group.

    Attributes:
        name: of its folder and its MLflow run: the same for the same settings, whatever else is searched.
    """

    group: SearchGroup
    settings: Point
    name: str


@dataclass(frozen=True)
class PointOutcome:
    """What a point came to.

    Attributes:
        value: the figure that decides, at its highest.
        best_epoch, epochs: the epoch of that value, and the last one; 0 where nothing is trained by epochs.
        settings: settings that were chosen within the point, beside its own.
        figures: further figures to keep and log.
    """

    value: float
    best_epoch: float = 0
    epochs: float = 0
    settings: Point = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PointResult:
    """What became of a point, as ``results.json`` has it, with the labels of its group beside the fields.

    Attributes:
        labels: of its group.
        value: the figure that decides, on validation; None when the point failed.
        stopped: whether the scheduler stopped it.
        failure: why it failed; else empty.
        try_again: whether the failure may not be that of its settings; the next call tries the point again.
    """

    labels: dict[str, str]
    settings: Point
    value: float | None
    best_epoch: float = 0
    epochs: float = 0
    stopped: bool = False
    failure: str = ""
    try_again: bool = False
    figures: dict[str, float] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """A row of ``results.json``."""
        values = dict(vars(self))
        return values.pop("labels") | values

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "PointResult":
        """The result of a row."""
        values = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        labels = {name: value for name, value in row.items() if name not in values}
        return cls(labels=labels, **values)


def title_of(point: SearchPoint) -> str:
    """A point as MLflow's table names it: its group and what varies, "listnet t2i learning_rate=0.003"."""
    varied = [f"{name}={format_value(value)}" for name, value in point.settings.items()]
    return " ".join([point.group.title, *varied])


def format_value(value: Any) -> str:
    """A setting in a few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class SearchTarget(ABC):
    """Things whose settings are searched. It is pickled into workers, so it holds paths and no arrays.

    Attributes:
        name: as ``--target`` has it.
        inputs: name → fingerprint of every input.
        tags: of every MLflow run of the search.
    """

    name: str
    inputs: dict[str, str]
    tags: dict[str, str]

    @abstractmethod
    def describe_config(self) -> dict[str, Any]:
        """The semantic configuration of what is not searched."""

    @abstractmethod
    def list_groups(self) -> list[SearchGroup]:
        """The groups, in the order of the results.

        Raises:
            ConfigError: a space or setting that is not possible.
        """

    @abstractmethod
    def count_epochs(self, group: SearchGroup) -> int:
        """The most epochs that a point reports."""

    @abstractmethod
    def describe_run(self, point: SearchPoint) -> dict[str, Any]:
        """The parameters of a point's MLflow run."""

    @abstractmethod
    def run_point(self, point: SearchPoint, folder: Path, cache: Path, report: ReportEpoch) -> PointOutcome:
        """Try a point, from where an interrupted call left it.

        Args:
            point: what to try.
            folder: the point's own.
            cache: a folder that all points share, for what is too large for memory.
            report: to be called after every epoch; a scheduler may end the process within it.

        Raises:
            DataError: the point fails, and would fail again.
        """

    @abstractmethod
    def write_best(self, best: Mapping[str, PointResult], counts: Mapping[str, int]) -> dict[str, Any]:
        """The content of ``best.json``.

        Args:
            best: title of a group → its best result.
            counts: title of a group → how many points it has.
        """

    def canonical_settings(self, settings: Point) -> Any:
        """What tells two points apart, JSON-able: points for which it is equal are one point."""
        return settings

    def make_point(self, group: SearchGroup, settings: Point) -> SearchPoint:
        """A point with its name."""
        text = json.dumps(self.canonical_settings(settings), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return SearchPoint(group, settings, f"{group.title.replace(' ', '-')}-{digest}")

    def list_reported(self, point: SearchPoint, folder: Path) -> list[float]:  # noqa: ARG002
        """The figures that an interrupted call reported and that `run_point` will not report again."""
        return []

    def read_stopped(self, point: SearchPoint, folder: Path) -> PointOutcome | None:  # noqa: ARG002
        """What a point came to that the scheduler stopped; None where it left nothing."""
        return read_epochs(folder)

    def list_epochs(self, folder: Path) -> list[tuple[int, dict[str, float]]]:  # noqa: ARG002
        """The epochs that a point has on disk, as they are reported; none where interrupted points start again."""
        return []

    def describe_outcome(self, outcome: PointOutcome) -> dict[str, float]:
        """What a point came to as metrics of its MLflow run: those of the best epoch, not the last one."""
        return {"kept/value": outcome.value, "kept/epoch": outcome.best_epoch}

    def remove_state(self, point: SearchPoint, folder: Path) -> None:  # noqa: B027
        """Remove what only an unfinished point needs; there may be nothing."""


def read_reports(folder: Path) -> list[float]:
    """The figures that a point has reported; empty if there are none."""
    path = folder / EPOCHS
    return json.loads(path.read_text()) if path.exists() else []


def read_epochs(folder: Path) -> PointOutcome | None:
    """The outcome of the epochs that were reported so far; the earliest of the highest counts."""
    values = read_reports(folder)
    if not values:
        return None
    best = max(values)
    return PointOutcome(best, 1 + values.index(best), len(values))
