"""The points of a search on disk: each in a folder of its own, done when its result is there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json
from xmrank.train.checkpoint import read_meta
from xmrank.train.schedule import TrialProgress
from xmrank.train.trials import STATE, Trial
from xmrank.tune.space import SearchPoint

RESULT = "result.json"
TRACKING = "tracking.json"


@dataclass(frozen=True)
class PointResult:
    """What became of a point.

    Attributes:
        value: highest mean of hit@1, hit@5 and hit@10 on the validation lists; None when its training failed.
        best_epoch, epochs: the epoch of that value, and the last one.
        stopped: whether the scheduler stopped it.
        failure: why it failed; else empty.
    """

    loss: str
    direction: str
    settings: dict[str, Any]
    value: float | None
    best_epoch: float = 0
    epochs: float = 0
    stopped: bool = False
    failure: str = ""


@dataclass(frozen=True)
class SearchFolder:
    """The folder of a search's points.

    Attributes:
        seed: of the trainings.
    """

    folder: Path
    seed: int

    def place(self, candidate: SearchPoint) -> Path:
        """The folder of a point."""
        return self.folder / candidate.name

    def trial(self, candidate: SearchPoint) -> Trial:
        """A point's training."""
        return Trial(candidate.loss, candidate.direction, self.seed)

    def result(self, candidate: SearchPoint) -> PointResult | None:
        """A point's result, or None when it is not done."""
        path = self.place(candidate) / RESULT
        return PointResult(**json.loads(path.read_text())) if path.exists() else None

    def write(self, candidate: SearchPoint, *, stopped: bool = False, failure: str = "") -> PointResult:
        """Write a point's result from what its training left; the training's state goes.

        Raises:
            DataError: a training that is not done, and that no scheduler stopped: it can be continued.
        """
        directory = self.trial(candidate).directory(self.place(candidate))
        progress = TrialProgress()
        history, state = directory / "history.json", directory / STATE
        if history.exists():
            for epoch in json.loads(history.read_text())["epochs"]:
                progress.add(epoch)
        elif state.exists() and stopped:
            progress = TrialProgress(**read_meta(state))
        if not progress.epochs and not failure:
            raise DataError(f"{directory}: no finished training of {candidate.name}")
        epochs = progress.epochs[-1]["epoch"] if progress.epochs else 0
        value = None if failure else progress.best_value
        about = candidate.loss, candidate.direction, candidate.point
        result = PointResult(*about, value, progress.best_epoch, epochs, stopped, failure)
        write_json(self.place(candidate) / RESULT, vars(result))
        state.unlink(missing_ok=True)
        return result

    def run(self, candidate: SearchPoint) -> str | None:
        """The id of a point's MLflow run."""
        path = self.place(candidate) / TRACKING
        return str(json.loads(path.read_text())["run"]) if path.exists() else None

    def keep_run(self, candidate: SearchPoint, run: str) -> None:
        """Note the id of a point's MLflow run."""
        write_json(self.place(candidate) / TRACKING, {"run": run})


def best_of(results: list[PointResult]) -> dict[str, dict[str, dict[str, Any]]]:
    """Direction → loss → the settings of the highest value, the earliest in the search's order on ties.

    Raises:
        DataError: all points of a loss and direction failed.
    """
    best: dict[tuple[str, str], PointResult] = {}
    for result in results:
        key = result.direction, result.loss
        known = best.setdefault(key, result)
        if result.value is not None and (known.value is None or result.value > known.value):
            best[key] = result
    for (direction, loss), result in best.items():
        if result.value is None:
            raise DataError(f"{loss} {direction}: every point failed, the first with: {result.failure}")
    chosen: dict[str, dict[str, dict[str, Any]]] = {}
    for (direction, loss), result in best.items():
        chosen.setdefault(direction, {})[loss] = result.settings
    return chosen
