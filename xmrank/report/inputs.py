"""What the report is made from: the directories of the stages before, checked to be of one run."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmrank.config import ReportConfig
from xmrank.embed.store import find_images_root
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import MANIFEST, Manifest
from xmrank.runtime.paths import PathOrUri, resolve
from xmrank.runtime.verification import read_outputs


@dataclass(frozen=True)
class TrialRecord:
    """One trained ranker's history.

    Attributes:
        epochs: one mapping of figures for each epoch, in order.
    """

    loss: str
    direction: str
    seed: int
    best_epoch: int | float
    epochs: list[dict[str, float | None]]

    def values_over_epochs(self, key: str) -> list[float]:
        """A figure over the epochs; NaN where an epoch lacks it."""
        values = (epoch.get(key) for epoch in self.epochs)
        return [math.nan if value is None else float(value) for value in values]

    def value_at_best(self, key: str) -> float:
        """A figure at the epoch that was kept; NaN when there is none."""
        for epoch, value in zip(self.epoch_numbers, self.values_over_epochs(key), strict=True):
            if epoch == self.best_epoch:
                return value
        return math.nan

    @property
    def epoch_numbers(self) -> list[int | float]:
        """The numbers of the epochs; fractions where an epoch was validated more than once."""
        numbers: list[int | float] = []
        for position, epoch in enumerate(self.epochs, start=1):
            number = epoch.get("epoch")
            # A history without numbers counts from 1.
            numbers.append(epoch_number(position if number is None else number))
        return numbers


def epoch_number(value: float) -> int | float:
    """The number of an epoch as it is shown."""
    # Validations within an epoch have fractions: 0.25, 0.5, …
    return int(value) if value == int(value) else round(value, 2)


@dataclass(frozen=True)
class ReportInputs:
    """Directories and manifests of the stages before.

    Attributes:
        split: the split that the evaluation reports.
        search, search_results: of the search that chose the settings; None where none is given.
        trials: the histories, in the order loss (as configured), direction, seed.
    """

    embeddings_directory: Path
    rankers_directory: Path
    evaluation_directory: Path
    embeddings: Manifest
    rankers: Manifest
    evaluation: Manifest
    encoder: dict[str, Any]
    split: str
    losses: list[str]
    trials: list[TrialRecord]
    search: Manifest | None
    search_results: Path | None
    baselines_directory: Path | None = None
    baselines: Manifest | None = None

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of every input, by its name."""
        known = {
            "embeddings": self.embeddings.fingerprint,
            "evaluation": self.evaluation.fingerprint,
            "rankers": self.rankers.fingerprint,
        }
        more = {"search": self.search, "baselines": self.baselines}
        return known | {name: manifest.fingerprint for name, manifest in more.items() if manifest}

    @property
    def images_root(self) -> PathOrUri | None:
        """The folder of the images, or its URI; None where the embeddings were imported without images."""
        return find_images_root(self.embeddings)

    @property
    def first_stage_validation(self) -> dict[str, float]:
        """The first stage's mean on the validation lists, by direction; rankers of earlier versions do not say it.

        Raises:
            DataError: the manifest has something else there, which its fingerprint does not cover.
        """
        known = self.rankers.settings.get("first_stage_validation", {})
        if not isinstance(known, dict) or not all(isinstance(value, int | float) for value in known.values()):
            raise DataError(
                f"{self.rankers_directory / MANIFEST}: first_stage_validation: expected numbers by direction"
            )
        return known

    @property
    def curves(self) -> Path:
        """The file of hit@k and recall@k over many k."""
        return self.evaluation_directory / "curves.json"

    @property
    def timing(self) -> Path:
        """The file of how long queries take."""
        return self.evaluation_directory / "timing.json"

    @property
    def metrics(self) -> Path:
        """The table of per-query values."""
        return self.evaluation_directory / "metrics.parquet"

    @property
    def baseline_metrics(self) -> Path | None:
        """The table of per-query values of the baselines."""
        return self.baselines_directory / "metrics.parquet" if self.baselines_directory else None

    @property
    def rankings(self) -> Path:
        """The table of ranked candidates."""
        return self.evaluation_directory / "rankings.parquet"


def open_inputs(config: ReportConfig) -> ReportInputs:
    """Read the manifests and the small files of the stages before.

    Raises:
        DataError: a directory without a finished stage, or stages that were not made from one another.
    """
    embeddings, rankers, evaluation = map(resolve, (config.embeddings, config.rankers, config.evaluation))
    manifests = {"embeddings": read_outputs(embeddings, "embed"), "rankers": read_outputs(rankers, "train")}
    evaluated = read_outputs(evaluation, "evaluate")
    # The evaluation says what it was made from: the other directories must be that.
    for name, manifest in manifests.items():
        if evaluated.inputs.get(name, manifest.fingerprint) != manifest.fingerprint:
            raise DataError(
                f"{evaluation}: was made from other {name} than --{name} {getattr(config, name)}: "
                f"{evaluated.inputs[name]} there, {manifest.fingerprint} here"
            )
    baselines = resolve(config.baselines) if config.baselines else None
    fitted = read_outputs(baselines, "baselines") if baselines else None
    # Baselines are another stage of the same embeddings and lists.
    for name in ("embeddings", "lists"):
        if fitted and fitted.inputs.get(name) != evaluated.inputs.get(name, fitted.inputs.get(name)):
            raise DataError(f"{baselines}: these baselines rank other {name} than the evaluation (--baselines)")
    losses = _read_losses(manifests["rankers"], rankers / MANIFEST)
    return ReportInputs(
        embeddings_directory=embeddings,
        rankers_directory=rankers,
        evaluation_directory=evaluation,
        embeddings=manifests["embeddings"],
        rankers=manifests["rankers"],
        evaluation=evaluated,
        encoder=read_json_object(embeddings / "encoder.json"),
        split=str(read_json_object(evaluation / "summary.json").get("split", "")),
        losses=losses,
        trials=_read_trials(rankers / "trials", losses),
        baselines_directory=baselines,
        baselines=fitted,
        **_read_search(config, manifests["rankers"]),
    )


def _read_search(config: ReportConfig, rankers: Manifest) -> dict[str, Any]:
    """The search's manifest and results, checked to be of the same lists as the rankers."""
    if config.search is None:
        return {"search": None, "search_results": None}
    folder = resolve(config.search)
    manifest = read_outputs(folder, "tune")
    # A search on other lists could have chosen other settings.
    for name, fingerprint in manifest.inputs.items():
        if rankers.inputs.get(name) != fingerprint:
            raise DataError(f"--search {config.search}: searched with other {name} than --rankers {config.rankers}")
    return {"search": manifest, "search_results": folder / "results.json"}


def _read_losses(manifest: Manifest, path: Path) -> list[str]:
    """The losses of the rankers' configuration, in its order."""
    losses = manifest.config.get("losses", [])
    if not isinstance(losses, list):
        raise DataError(f"{path}: expected a list of the configuration's losses, it is {json.dumps(losses)}")
    return [str(loss) for loss in losses]


def _read_trials(folder: Path, losses: list[str]) -> list[TrialRecord]:
    trials = [_read_trial(path) for path in sorted(folder.glob("*/history.json"))]
    # Losses in the order of the configuration, which gives them their colours.
    return sorted(trials, key=lambda t: (loss_sort_key(t.loss, losses), t.direction, t.seed))


def _read_trial(path: Path) -> TrialRecord:
    history = read_json_object(path)
    try:
        return TrialRecord(
            loss=str(history["loss"]),
            direction=str(history["direction"]),
            seed=int(history["seed"]),
            best_epoch=epoch_number(history["best_epoch"]),
            epochs=[_check_epoch(epoch) for epoch in history["epochs"]],
        )
    except KeyError as error:
        expected = "loss, direction, seed, best_epoch and epochs"
        raise DataError(f"{path}: expected {expected}; {error} is missing") from None
    except (TypeError, ValueError, OverflowError):
        expected = "numbers as seed and best_epoch, and a list of epochs with numbers"
        raise DataError(f"{path}: expected {expected}") from None


def _check_epoch(epoch: Any) -> dict[str, float | None]:
    """An epoch of a history; ValueError for anything but an object of numbers and nulls."""
    if not isinstance(epoch, dict):
        raise ValueError("no object")
    if not all(value is None or isinstance(value, int | float) for value in epoch.values()):
        raise ValueError("no number")
    # Numbered only where it has a number.
    epoch_number(epoch.get("epoch") or 0)
    return epoch


def loss_sort_key(loss: str, losses: list[str]) -> tuple[int, str]:
    """A sort key: losses as they were configured, others behind them by name."""
    return (losses.index(loss) if loss in losses else len(losses), loss)


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a small file of a stage.

    Raises:
        DataError: it is something else.
    """
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object")
    return value
