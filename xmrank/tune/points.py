"""The points of a search on disk: each in a folder of its own, done when its result is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_kept_json, write_json
from xmrank.runtime.manifest import WORK
from xmrank.runtime.pieces import record_piece
from xmrank.tune.search_target import EPOCHS, PointOutcome, PointResult, SearchGroup, SearchPoint, read_reports

RESULT = "result.json"


@dataclass(frozen=True)
class SearchFolder:
    """The folder of a search's points."""

    folder: Path

    def folder_of(self, point: SearchPoint) -> Path:
        """The folder of a point."""
        return self.folder / point.name

    def read_result(self, point: SearchPoint) -> PointResult | None:
        """A point's result, or None when it is not done."""
        path = self.folder_of(point) / RESULT
        return read_row(path) if path.exists() else None

    def is_done(self, point: SearchPoint) -> bool:
        """Whether a point has a result that counts: not one of a failure that is tried again."""
        result = self.read_result(point)
        return result is not None and not result.try_again

    def read_reports(self, point: SearchPoint) -> list[float]:
        """The figures that a point has reported."""
        return read_reports(self.folder_of(point))

    def remove_reports(self) -> None:
        """Remove what only an unfinished search needs of its points."""
        for path in self.folder.glob(f"*/{EPOCHS}"):
            path.unlink()

    def require_result(self, point: SearchPoint) -> PointResult:
        """A point's result.

        Raises:
            DataError: the point is not done, and no scheduler stopped it: it can be continued.
        """
        result = self.read_result(point)
        if result is None:
            raise DataError(f"{self.folder_of(point)}: no finished training of {point.name}")
        return result

    def list_results(self, group: SearchGroup) -> list[PointResult]:
        """The results of a group that are there, by the names of their points."""
        paths = sorted(self.folder.glob(f"{group.title.replace(' ', '-')}-*/{RESULT}"))
        results = [read_row(path) for path in paths]
        # The name of one group may begin with another's: vsepp, vsepp-sndcg0.5.
        return [result for result in results if result.labels == group.labels]

    def write_outcome(self, point: SearchPoint, outcome: PointOutcome, *, stopped: bool = False) -> PointResult:
        """Write the result of a point that came to something."""
        # Settings that were chosen within the point are part of what is best.
        settings = point.settings | outcome.settings
        result = PointResult(
            point.group.labels,
            settings,
            outcome.value,
            outcome.best_epoch,
            outcome.epochs,
            stopped,
            figures=outcome.figures,
        )
        self._write_result(point, result)
        return result

    def write_failure(self, point: SearchPoint, failure: str, *, try_again: bool = False) -> PointResult:
        """Write the result of a point that failed."""
        result = PointResult(point.group.labels, point.settings, None, failure=failure, try_again=try_again)
        self._write_result(point, result)
        return result

    def _write_result(self, point: SearchPoint, result: PointResult) -> None:
        """Write a result and record it: a point that has one is never tried again."""
        path = self.folder_of(point) / RESULT
        write_json(path, result.as_row())
        record_piece(self.folder.parent / WORK, point.name, [path])


def read_row(path: Path) -> PointResult:
    """The result in a file.

    Raises:
        DataError: it is damaged.
    """
    row = read_kept_json(path, dict)
    value, settings = row.get("value", ""), row.get("settings")
    # What decides which point is best, and what is trained with it.
    sound = "labels" not in row and isinstance(settings, dict) and (value is None or type(value) in (int, float))
    if not sound:
        raise DataError(f"{path}: damaged: not the result of a point (remove it to try the point again)")
    return PointResult.from_row(row)


def find_best(group: SearchGroup, results: Sequence[PointResult]) -> PointResult:
    """The result of a group with the highest value, the earliest in the search's order on ties.

    Raises:
        DataError: all points failed.
    """
    best: PointResult | None = None
    for result in results:
        if result.value is not None and (best is None or best.value is None or result.value > best.value):
            best = result
    if best is None:
        raise DataError(f"{group.title}: every point failed, the first with: {results[0].failure}")
    return best
