"""The registering stage: the best ranker of each direction becomes a version of a model in MLflow's registry."""

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xmrank.config import RegisterConfig
from xmrank.register import serving
from xmrank.register.model_registry import (
    ALIAS,
    MODEL_URI,
    TrainedRanker,
    best_rankers,
    copy_ranker,
    ranker_fingerprint,
)
from xmrank.runtime.paths import home, resolve
from xmrank.tracking import models
from xmrank.tracking.run_tree import read_run_ids
from xmrank.tracking.runs import connect_tracking
from xmrank.train.checkpoint import read_about

REQUIREMENTS = ("mlflow", "torch", "numpy", "safetensors", "pyarrow")
"""What a ranker needs beside xmrank itself, which no package index has."""


def register(config: RegisterConfig) -> None:
    """Register the best ranker of each direction as NAME-i2t and NAME-t2i; one that is registered stays as it is.

    The alias ``best`` moves to the new version, unless the version that has it was trained on the same lists and has
    a higher validation mean.

    Raises:
        DataError: no finished training.
        TrackingError: a tracking server that cannot be used.
    """
    rankers = resolve(config.rankers)
    best = best_rankers(rankers)
    uri, runs = connect_tracking(), read_run_ids(rankers)
    for direction, trained in best.items():
        name = f"{config.name}-{direction}"
        made = register_ranker(uri, name, trained, runs.get(trained.directory.name))
        print(describe_registration(made, trained))


def register_ranker(uri: str, name: str, trained: TrainedRanker, run: str | None) -> models.RegisteredModel:
    """Register one ranker.

    Args:
        uri: of the tracking server.
        name: of the registered model.
        trained: the ranker.
        run: id of the MLflow run that trained it, where it is known.

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
        tags = version_tags(about, trained)
        return models.register_model(
            uri,
            home(),
            name,
            package,
            fingerprint=ranker_fingerprint(trained.directory),
            tags=tags,
            alias=ALIAS,
            beats=lambda other: deserves_alias(tags, other),
            run=run,
        )


def version_tags(about: Mapping[str, Any], trained: TrainedRanker) -> dict[str, str]:
    """Tags by which the versions of a model differ in the UI."""
    # Tags are texts.
    kept = {name: str(about[name]) for name in ("loss", "seed", "direction", "lists", "embeddings")}
    encoder = about.get("encoder") or {}
    return {
        **kept,
        "encoder": str(encoder.get("name")),
        "ranker": about["ranker"],
        "validation_mean": str(trained.validation),
    }


def deserves_alias(tags: Mapping[str, str], holder: Mapping[str, str]) -> bool:
    """Whether a version takes the alias from the one that holds it.

    Args:
        tags, holder: tags of the two versions.
    """
    # Means on different lists cannot be compared: then the newer version gets the alias.
    if tags["lists"] != holder.get("lists"):
        return True
    return float(tags["validation_mean"]) > float(holder["validation_mean"])


def describe_registration(made: models.RegisteredModel, trained: TrainedRanker) -> str:
    """One line: which ranker is which version now, and which version has the alias."""
    uri = f"{MODEL_URI}{made.name}@{ALIAS}"
    state = f"version {made.version}" + ("" if made.new else ", registered before")
    line = f"register: {trained.directory.name} (validation {trained.validation:.4f}) is {made.name} {state}"
    return f"{line}, {uri}" if made.holder == made.version else f"{line}; {uri} stays version {made.holder}"
