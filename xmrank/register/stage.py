"""The registering stage: the best ranker of each direction becomes a version of a model in MLflow's registry."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmrank.config import RegisterConfig
from xmrank.config.common import Direction
from xmrank.config.register import model_prefix
from xmrank.embed.store import EmbeddingStore
from xmrank.rank.trained_rankers import (
    ALIAS,
    GAIN,
    MODEL_URI,
    TrainedRanker,
    best_rankers,
)
from xmrank.register.alias_guard import FirstStageGain, is_not_below, measure_gain
from xmrank.register.packaging import RankerPackage, package_ranker
from xmrank.register.retrieval import CAPTION, IMAGE
from xmrank.runtime.manifest import read_manifest
from xmrank.runtime.paths import home, resolve
from xmrank.tracking import models
from xmrank.tracking.run_tree import read_run_ids
from xmrank.tracking.runs import connect_tracking
from xmrank.train.checkpoint_json import read_about


def register(config: RegisterConfig) -> None:
    """Register the best ranker of each direction as NAME-i2t and NAME-t2i; one that is registered stays as it is.

    The alias ``best`` moves to the new version if that is significantly above the first stage in the evaluation, and
    not below the version that has the alias on the same validation lists; with ``--force`` in any case.

    Raises:
        DataError: no finished training, or no evaluation of it (without ``--force``).
        TrackingError: a tracking server that cannot be used.
    """
    rankers, embeddings = resolve(config.rankers), resolve(config.embeddings)
    best, store = best_rankers(rankers), EmbeddingStore.open(embeddings)
    prefix = model_prefix(config.name, store.dataset)
    gains = {} if config.force else measure_gains(best, rankers, resolve(config.evaluation), embeddings)
    uri, runs = connect_tracking(), read_run_ids(rankers)
    for direction, trained in best.items():
        run, gain = runs.get(trained.directory.name), gains.get(direction)
        with tempfile.TemporaryDirectory() as folder:
            package = package_ranker(trained.directory, store, config, Path(folder))
            made = register_ranker(uri, f"{prefix}-{direction}", trained, package, run, gain)
        print(describe_registration(made, trained, gain, package.takes))


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
    uri: str, name: str, trained: TrainedRanker, package: RankerPackage, run: str | None, gain: FirstStageGain | None
) -> models.RegisteredModel:
    """Register one ranker.

    Args:
        uri: of the tracking server.
        name: of the registered model.
        trained, package: the ranker, and the model that was made of it.
        run: id of the MLflow run that trained it, where it is known.
        gain: over the first stage; None: the alias is forced.

    Raises:
        TrackingError: the server has no registry, or refuses.
    """
    tags = version_tags(read_about(trained.directory), trained, gain)
    return models.register_model(
        uri,
        home(),
        name,
        package.model,
        fingerprint=package.fingerprint,
        tags=tags,
        description=describe_version(name, tags, package),
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


def describe_version(name: str, tags: Mapping[str, str], package: RankerPackage) -> str:
    """The version's page in the UI: what the model is, how it did, and how it is called."""
    column = CAPTION if tags["direction"] == "t2i" else IMAGE
    call = f'pd.DataFrame({{"{column}": [...]}})' if package.retrieves else "{...}"
    return f"""A {tags["ranker"]} ranker ({tags["direction"]}), trained with {tags["loss"]}, seed {tags["seed"]}, on
embeddings of {tags["encoder"]}. It {package.takes}.

- Test, mean of hit@1, hit@5 and hit@10 on candidate lists: {tags[GAIN]}
- Validation, the same mean: {100 * float(tags["validation_mean"]):.1f} %

```python
mlflow.pyfunc.load_model("{MODEL_URI}{name}@{ALIAS}").predict({call})
```
"""


def describe_registration(
    made: models.RegisteredModel, trained: TrainedRanker, gain: FirstStageGain | None, takes: str
) -> str:
    """One line: which ranker is which version now, how it did, what it takes, and which version has the alias."""
    uri = f"{MODEL_URI}{made.name}@{ALIAS}"
    state = f"version {made.version}" + ("" if made.new else ", registered before")
    figures = f"validation {trained.validation:.4f}" + (f"; test {gain.describe()}" if gain else "")
    line = f"register: {trained.directory.name} ({figures}) is {made.name} {state}; it {takes}"
    if made.holder == made.version:
        return f"{line}: {uri}"
    if made.holder is None:
        return f"{line}; there is no {uri}, since it is not significantly above the first stage (--force gives it)"
    return f"{line}; {uri} stays version {made.holder}"
