"""The registering stage: the best ranker of each direction becomes a version of a model in MLflow's registry."""

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xmrank.config import RegisterConfig
from xmrank.config.common import Direction
from xmrank.config.register import model_prefix
from xmrank.embed.store import EmbeddingStore
from xmrank.register import serving
from xmrank.register.alias_guard import GAIN, FirstStageGain, is_not_below, measure_gain
from xmrank.register.model_registry import (
    ALIAS,
    MODEL_URI,
    TrainedRanker,
    best_rankers,
    copy_ranker,
    ranker_fingerprint,
)
from xmrank.runtime.manifest import read_manifest
from xmrank.runtime.paths import home, resolve
from xmrank.tracking import models
from xmrank.tracking.run_tree import read_run_ids
from xmrank.tracking.runs import connect_tracking
from xmrank.train.checkpoint_json import read_about

REQUIREMENTS = ("mlflow", "torch", "numpy", "safetensors", "pyarrow")
"""What a ranker needs beside xmrank itself, which no package index has."""


def register(config: RegisterConfig) -> None:
    """Register the best ranker of each direction as NAME-i2t and NAME-t2i; one that is registered stays as it is.

    The alias ``best`` moves to the new version if that is significantly above the first stage in the evaluation, and
    not below the version that has the alias on the same validation lists; with ``--force`` in any case.

    Raises:
        DataError: no finished training, or no evaluation of it (without ``--force``).
        TrackingError: a tracking server that cannot be used.
    """
    rankers, embeddings = resolve(config.rankers), resolve(config.embeddings)
    best = best_rankers(rankers)
    prefix = model_prefix(config.name, EmbeddingStore.open(embeddings, verify=False).dataset)
    gains = {} if config.force else measure_gains(best, rankers, resolve(config.evaluation), embeddings)
    uri, runs = connect_tracking(), read_run_ids(rankers)
    for direction, trained in best.items():
        run = runs.get(trained.directory.name)
        made = register_ranker(uri, f"{prefix}-{direction}", trained, run, gains.get(direction))
        print(describe_registration(made, trained, gains.get(direction)))


def measure_gains(
    best: Mapping[Direction, TrainedRanker], rankers: Path, evaluation: Path, embeddings: Path
) -> dict[Direction, FirstStageGain]:
    """The gain of each direction's ranker over the first stage.

    Raises:
        DataError: no evaluation of these rankers.
    """
    fingerprint = read_manifest(rankers, "train").fingerprint
    gains = {}
    for direction, trained in best.items():
        about = read_about(trained.directory)
        gains[direction] = measure_gain(
            evaluation, embeddings, fingerprint, direction, about["loss"], int(about["seed"])
        )
    return gains


def register_ranker(
    uri: str, name: str, trained: TrainedRanker, run: str | None, gain: FirstStageGain | None
) -> models.RegisteredModel:
    """Register one ranker.

    Args:
        uri: of the tracking server.
        name: of the registered model.
        trained: the ranker.
        run: id of the MLflow run that trained it, where it is known.
        gain: over the first stage; None: the alias is forced.

    Raises:
        TrackingError: the server has no registry, or refuses.
    """
    about = read_about(trained.directory)
    dimensions, tokens = int(about["dimensions"]), serving.read_token_sizes(about)
    # MLflow copies the whole folder; a trial's folder has more than the ranker's two files.
    with tempfile.TemporaryDirectory() as folder:
        package = models.ModelPackage(
            folder=copy_ranker(trained.directory, Path(folder) / "ranker"),
            loader=serving.LOADER,
            inputs=serving.example_inputs(dimensions, tokens),
            shapes=serving.input_shapes(dimensions, tokens),
            output=(-1, -1),
            # The versions of this environment, with which the ranker is known to load.
            requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
        tags = version_tags(about, trained, gain)
        return models.register_model(
            uri,
            home(),
            name,
            package,
            fingerprint=ranker_fingerprint(trained.directory),
            tags=tags,
            alias=ALIAS,
            deserves=lambda holder: gain is None or (gain.is_significant and is_not_below(tags, holder)),
            force=gain is None,
            run=run,
        )


def version_tags(about: Mapping[str, Any], trained: TrainedRanker, gain: FirstStageGain | None) -> dict[str, str]:
    """Tags by which the versions of a model differ in the UI."""
    # Tags are texts.
    kept = {name: str(about[name]) for name in ("loss", "seed", "direction", "lists", "embeddings")}
    encoder = about.get("encoder") or {}
    return {
        **kept,
        "encoder": str(encoder.get("name")),
        "ranker": about["ranker"],
        "validation_mean": str(trained.validation),
        GAIN: gain.describe() if gain else "not evaluated",
    }


def describe_registration(made: models.RegisteredModel, trained: TrainedRanker, gain: FirstStageGain | None) -> str:
    """One line: which ranker is which version now, how it did, and which version has the alias."""
    uri = f"{MODEL_URI}{made.name}@{ALIAS}"
    state = f"version {made.version}" + ("" if made.new else ", registered before")
    figures = f"validation {trained.validation:.4f}" + (f"; test {gain.describe()}" if gain else "")
    line = f"register: {trained.directory.name} ({figures}) is {made.name} {state}"
    if made.holder == made.version:
        return f"{line}, {uri}"
    if made.holder is None:
        return f"{line}; it has no {uri}, since it is not significantly above the first stage (--force gives it)"
    return f"{line}; {uri} stays version {made.holder}"
