"""Which ranker is the best of a training, and where the one to use is: in a folder, or registered with MLflow."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xmrank import tracking
from xmrank.config import DIRECTIONS, Direction, RegisterConfig
from xmrank.register import serving
from xmrank.runtime.directory import MANIFEST, read_manifest
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import sha256_file, sha256_json
from xmrank.runtime.paths import home, resolve
from xmrank.tracking import models
from xmrank.tracking.run_tree import connect_tracking, read_run_ids
from xmrank.train.checkpoint import read_about
from xmrank.train.stage import STAGE as TRAIN
from xmrank.train.trials import HISTORY, RANKER, RANKER_JSON

MODEL_URI = "models:/"
ALIAS = "best"
REQUIREMENTS = ("mlflow", "torch", "numpy", "safetensors", "pyarrow")
"""What a ranker needs beside xmrank itself, which no package index has."""


@dataclass(frozen=True)
class TrainedRanker:
    """A trained ranker and its figure on the validation lists, at the epoch that was kept."""

    directory: Path
    direction: Direction
    validation: float


def best_rankers(rankers: Path) -> dict[Direction, TrainedRanker]:
    """The ranker of the highest validation mean over losses and seeds in each direction; the first by name on ties.

    Args:
        rankers: a finished training.

    Raises:
        DataError: no finished training there, or a trial whose history is damaged.
    """
    read_manifest(rankers, TRAIN)
    best: dict[Direction, TrainedRanker] = {}
    for directory in sorted((rankers / "trials").iterdir()):
        candidate = read_candidate(directory)
        if candidate.direction not in best or candidate.validation > best[candidate.direction].validation:
            best[candidate.direction] = candidate
    return best


def read_candidate(directory: Path) -> TrainedRanker:
    """A trial's ranker with its figure."""
    path = directory / HISTORY
    try:
        history = json.loads(path.read_text())
        kept = next(epoch for epoch in history["epochs"] if epoch["epoch"] == history["best_epoch"])
        return TrainedRanker(directory, history["direction"], float(kept["validation_mean"]))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise DataError(f"{path}: not the history of a trial") from None


def register(config: RegisterConfig) -> None:
    """Register the best ranker of each direction as NAME-i2t and NAME-t2i; one that is registered stays as it is.

    The alias ``best`` goes to the new version unless the one that has it learned from the same lists and was better.

    Raises:
        DataError: no finished training, or a tracking server that cannot be used.
    """
    rankers = resolve(config.rankers)
    best = best_rankers(rankers)
    uri, runs = connect_tracking(), read_run_ids(rankers)
    for direction, candidate in best.items():
        name = f"{config.name}-{direction}"
        try:
            made = register_one(uri, name, candidate, runs.get(candidate.directory.name))
        except tracking.TrackingError as error:
            raise DataError(str(error)) from None
        print(describe(made, candidate))


def register_one(uri: str, name: str, candidate: TrainedRanker, run: str | None) -> models.RegisteredModel:
    """Register one ranker."""
    about = read_about(candidate.directory)
    dimensions = int(about["dimensions"])
    with tempfile.TemporaryDirectory() as folder:
        package = models.ModelPackage(
            folder=copy_ranker(candidate.directory, Path(folder) / "ranker"),
            loader=serving.LOADER,
            inputs=serving.example(dimensions),
            shapes=serving.shapes(dimensions),
            output=(-1, -1),
            requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
        tags = version_tags(about, candidate)
        return models.register(
            uri,
            home(),
            name,
            package,
            fingerprint=fingerprint(candidate.directory),
            tags=tags,
            alias=ALIAS,
            beats=lambda other: deserves(tags, other),
            run=run,
        )


def version_tags(about: Mapping[str, Any], candidate: TrainedRanker) -> dict[str, str]:
    """What tells the versions of a model apart in the UI."""
    kept = {name: str(about[name]) for name in ("loss", "seed", "direction", "lists", "embeddings")}
    encoder = about.get("encoder") or {}
    return {
        **kept,
        "encoder": str(encoder.get("name")),
        "ranker": about["ranker"],
        "validation_mean": str(candidate.validation),
    }


def deserves(tags: Mapping[str, str], holder: Mapping[str, str]) -> bool:
    """Whether a ranker takes the alias from its holder: always, unless the same lists say that the holder is better."""
    if tags["lists"] != holder.get("lists"):
        return True
    return float(tags["validation_mean"]) > float(holder["validation_mean"])


def describe(made: models.RegisteredModel, candidate: TrainedRanker) -> str:
    """What a user should know of a registration."""
    uri = f"{MODEL_URI}{made.name}@{ALIAS}"
    state = f"version {made.version}" + ("" if made.new else ", registered before")
    line = f"register: {candidate.directory.name} (validation {candidate.validation:.4f}) is {made.name} {state}"
    return f"{line}, {uri}" if made.holder == made.version else f"{line}; {uri} stays version {made.holder}"


def fingerprint(directory: Path) -> str:
    """The sha256 over a ranker's two files."""
    return sha256_json([sha256_file(directory / name) for name in (RANKER, RANKER_JSON)])


def copy_ranker(source: Path, target: Path) -> Path:
    """Copy a ranker's two files; returns the target."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (RANKER, RANKER_JSON):
        shutil.copyfile(source / name, target / name)
    return target


def fetch_ranker(where: str, direction: Direction | None, folder: Path) -> Path:
    """The folder of the ranker to use.

    Args:
        where: a model of MLflow's registry (``models:/…``), a ranker's folder, or that of a training, whose best
            ranker of the direction it then is.
        direction: needed for a training.
        folder: takes the files of a registered one.

    Raises:
        ConfigError: a training without a direction.
        DataError: no ranker there.
    """
    if where.startswith(MODEL_URI):
        try:
            return models.download(connect_tracking(), where, folder)
        except tracking.TrackingError as error:
            raise DataError(f"--ranker {error}") from None
    directory = resolve(where)
    if not (directory / MANIFEST).exists():
        read_about(directory)
        return directory
    best = best_rankers(directory)
    if direction is None:
        raise ConfigError(f"--ranker {where}: a training; give --direction {' or '.join(DIRECTIONS)}")
    if direction not in best:
        raise DataError(f"--ranker {where}: no ranker of the direction {direction} there")
    return best[direction].directory
