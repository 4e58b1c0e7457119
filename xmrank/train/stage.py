"""The training stage: check, begin the MLflow runs, train what is not trained."""

import json
from collections.abc import Callable
from typing import Any

from xmrank import tracking
from xmrank.config import DIRECTIONS, TrainConfig, semantic
from xmrank.embed.store import EmbeddingStore
from xmrank.losses import LOSSES
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.mine.roles import ROLES
from xmrank.rankers import RANKERS
from xmrank.runtime.directory import Manifest, StageDirectory, read_manifest
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import write_json
from xmrank.runtime.paths import home, resolve
from xmrank.train.ray import TrainingWork, train_on_cluster
from xmrank.train.settings import Best, check_loss, config_of, read_best, semantic_with
from xmrank.train.trainer import make_ranker
from xmrank.train.trial_data import check_draws
from xmrank.train.trials import Trial, all_trials, pending

STAGE = "train"
TRACKING = "tracking.json"


def train(config: TrainConfig, parent: Callable[[], str] | None = None) -> Manifest:
    """Train a ranker for every loss, direction and seed; trials that an earlier run finished are kept.

    Args:
        config: what to train.
        parent: begins the MLflow run of the experiment that this belongs to and returns its id; called only when
            there is something to train. Without it, the stage has a parent run of its own.

    Raises:
        ConfigError: an unknown loss, direction, ranker or feature.
        DataError: inputs that are not finished, or lists that were mined from another store.
    """
    store, lists = EmbeddingStore.open(resolve(config.embeddings)), read_manifest(resolve(config.lists), MINE)
    best = read_best(config)
    check(config, best, store, lists)
    output = resolve(config.output)
    stage = StageDirectory.open(
        output,
        STAGE,
        config=semantic_with(config, best),
        inputs={"embeddings": store.fingerprint, "lists": lists.fingerprint},
        overwrite=config.overwrite,
    )
    manifest = stage.done or train_all(stage, config, best, store, lists, parent)
    print(f"train: {manifest.counts['rankers']} rankers in {output}")
    return manifest


def check(config: TrainConfig, best: Best, store: EmbeddingStore, lists: Manifest) -> None:
    """Refuse what cannot work before anything is started."""
    for flag, values, known in (
        ("--losses", config.losses, LOSSES),
        ("--directions", config.directions, DIRECTIONS),
        ("--ranker.name", (config.ranker.name,), RANKERS),
    ):
        unknown = [value for value in values if value not in known]
        if unknown:
            raise ConfigError(f"{flag} {unknown[0]}: expected one of {', '.join(known)}")
    if lists.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"{resolve(config.lists)}: these lists were mined from other embeddings than {store.directory}")
    for trial in all_trials(config):
        settings = config_of(trial, config, best)
        check_loss(settings, trial.loss)
        try:
            make_ranker(settings, store.dimensions, trial.loss)
        except ValueError as error:
            raise ConfigError(f"--ranker: {error}") from None
        check_draws(resolve(config.lists), store, trial.direction, settings, trial.seed)


def train_all(
    stage: StageDirectory,
    config: TrainConfig,
    best: Best,
    store: EmbeddingStore,
    lists: Manifest,
    parent: Callable[[], str] | None,
) -> Manifest:
    """Train the trials that are not done and finish the stage."""
    trials, output = all_trials(config), stage.directory
    runs = TrainingRuns(connect_tracking(), stage, config, best, store, lists, parent() if parent else None)
    try:
        left = pending(trials, output)
        if left:
            ids = {trial.name: runs.trial(trial) for trial in left}
            about = {"lists": lists.fingerprint, "embeddings": store.fingerprint, "encoder": store.encoder}
            places = store.directory, resolve(config.lists), output
            folders = stage.work / "failures", stage.work / "lists"
            work = TrainingWork(config, best, *places, trials, about, *folders, runs.uri, ids)
            train_on_cluster(work, stage.work / "ray")
    finally:
        runs.end(trials)
    for trial in trials:
        trial.tidy(output)
    return stage.finish(counts={"rankers": len(trials)}, settings={"threads": 1, "roles": list(ROLES)})


def connect_tracking() -> str:
    """The tracking URI; DataError when it cannot be used."""
    try:
        return tracking.connect(home())
    except tracking.TrackingError as error:
        raise DataError(str(error)) from None


class TrainingRuns:
    """The MLflow runs of one stage directory; their ids are kept beside its output, so that a rerun continues them."""

    def __init__(
        self,
        uri: str,
        stage: StageDirectory,
        config: TrainConfig,
        best: Best,
        store: EmbeddingStore,
        lists: Manifest,
        parent: str | None,
    ) -> None:
        self.uri, self.config, self.best, self.output = uri, config, best, stage.directory
        self.path = self.output / TRACKING
        self.known: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint}
        self.tags = {
            "stage": STAGE,
            "encoder": str(store.encoder["name"]),
            "dataset": str(store.manifest.settings.get("dataset", "imported")),
            "candidates": lists.fingerprint,
        } | tracking.origin_tags()
        self.own = parent is None
        self.parent = self.known["parent"] = parent or self._begin(
            "parent", f"train {self.output.parent.name}", semantic(config), {}
        )

    def trial(self, trial: Trial) -> str:
        """The run of a trial."""
        params = {**semantic(config_of(trial, self.config, self.best)), **vars(trial)}
        del params["losses"], params["directions"], params["seeds"]
        return self._begin(trial.name, trial.name, params, {"loss": trial.loss, "direction": trial.direction})

    def end(self, trials: list[Trial]) -> None:
        """End the runs that no worker ended: its process may have gone between the trial's end and the run's."""
        for trial in trials:
            run = self.known.get(trial.name)
            if run and tracking.status(self.uri, run) == "RUNNING":
                done = trial.is_done(self.output)
                tracking.log_artifacts(self.uri, run, *(trial.files(self.output) if done else ()))
                tracking.end(self.uri, run, failed=not done)
        if self.own:
            tracking.end(self.uri, self.parent, failed=bool(pending(trials, self.output)))

    def _begin(self, key: str, name: str, params: dict[str, Any], tags: dict[str, str]) -> str:
        run = tracking.begin(
            self.uri,
            home(),
            name,
            parent=None if key == "parent" else self.parent,
            resume=self.known.get(key),
            tags={**self.tags, **tags},
            params=params,
            inputs=self.inputs,
        )
        self.known[key] = run
        write_json(self.path, self.known)
        return run
