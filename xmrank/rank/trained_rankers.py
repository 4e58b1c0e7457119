"""Where trained rankers are: in a folder, in a training, or in MLflow's model registry."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from xmrank.config.common import DIRECTIONS, Direction
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import atomic_path, sha256_file, sha256_json
from xmrank.runtime.manifest import MANIFEST
from xmrank.runtime.paths import resolve
from xmrank.runtime.storage import local_copy
from xmrank.runtime.verification import read_outputs
from xmrank.train.checkpoint_json import read_about, verify_weights
from xmrank.train.trials import HISTORY, RANKER, RANKER_JSON

MODEL_URI = "models:/"
"""Begins the URI of a registered model."""
ALIAS = "best"
"""The alias that the best version of a registered ranker has."""


GAIN = "against_first_stage"
"""Tag of a registered version: how it did against its first stage."""
RANKER_FOLDER = "ranker"
"""The folder with a ranker's files in a registered model."""


@dataclass(frozen=True)
class TrainedRanker:
    """A trained ranker and its mean on the validation lists, at the epoch that was kept."""

    directory: Path
    direction: Direction
    validation: float


def locate_ranker(source: str, direction: Direction | None, downloads: Path) -> Path:
    """The folder of the ranker to use.

    Args:
        source: a ranker's folder; the output of a training; or a model of MLflow's registry, ``models:/NAME@ALIAS`` or
            ``models:/NAME/VERSION``.
        direction: needed for the output of a training.
        downloads: takes the files of a registered ranker.

    Raises:
        ConfigError: the output of a training without a direction.
        DataError: no ranker there.
    """
    # MLflow's own URIs are not paths.
    if source.startswith(MODEL_URI):
        return download_ranker(source, downloads)
    directory = resolve(source)
    # A ranker's folder has no manifest; the output of a training has one.
    if not (directory / MANIFEST).exists():
        read_about(directory)  # refuses a folder without a ranker
        return directory
    best = best_rankers(directory)
    if direction is None:
        raise ConfigError(f"--ranker {source}: a training; give --direction {' or '.join(DIRECTIONS)}")
    if direction not in best:
        raise DataError(f"--ranker {source}: no ranker of the direction {direction} there")
    return best[direction].directory


def download_ranker(uri: str, downloads: Path) -> Path:
    """Fetch a registered ranker's files; returns their folder.

    Raises:
        DataError: no such model, or a registry that does not answer.
    """
    # Only this needs MLflow, which takes a second to import.
    from xmrank import tracking
    from xmrank.tracking import models
    from xmrank.tracking.runs import connect_tracking

    try:
        return models.download_folder(connect_tracking(), uri, RANKER_FOLDER, downloads)
    except tracking.TrackingError as error:
        raise DataError(f"--ranker {error}") from None


def read_registered_tags(uri: str) -> dict[str, str]:
    """The tags of a registered ranker's version."""
    from xmrank.tracking import models
    from xmrank.tracking.runs import connect_tracking

    return models.read_version_tags(connect_tracking(), uri)


def best_rankers(rankers: Path) -> dict[Direction, TrainedRanker]:
    """The ranker of the highest validation mean over losses and seeds in each direction; the first by name on ties.

    Args:
        rankers: a finished training.

    Raises:
        DataError: no finished training there, or a trial whose history is damaged.
    """
    read_outputs(rankers, "train")
    best: dict[Direction, TrainedRanker] = {}
    # By name, so that ties do not depend on the file system.
    for directory in sorted((rankers / "trials").iterdir()):
        trained = read_trained_ranker(directory)
        holder = best.get(trained.direction)
        if holder is None or trained.validation > holder.validation:
            best[trained.direction] = trained
    return best


def read_trained_ranker(directory: Path) -> TrainedRanker:
    """A trial's ranker with its validation mean.

    Raises:
        DataError: a history that is damaged or not there.
    """
    path = directory / HISTORY
    try:
        history = json.loads(path.read_text())
        # The weights that were kept are those of the best epoch, not of the last.
        kept = next(epoch for epoch in history["epochs"] if epoch["epoch"] == history["best_epoch"])
        return TrainedRanker(directory, history["direction"], float(kept["validation_mean"]))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise DataError(f"{path}: not the history of a trial") from None


def ranker_fingerprint(directory: Path) -> str:
    """The sha256 over a ranker's two files.

    Raises:
        DataError: weights that are not those of its JSON.
    """
    verify_weights(directory, read_about(directory))
    return sha256_json([sha256_file(directory / name) for name in (RANKER, RANKER_JSON)])


def copy_ranker(source: Path, target: Path) -> Path:
    """Copy a ranker's two files; returns the target."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (RANKER, RANKER_JSON):
        # The target may be in an object store, for workers elsewhere.
        with atomic_path(target / name) as path:
            shutil.copyfile(local_copy(source / name), path)
    return target
