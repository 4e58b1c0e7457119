"""The training stage: check, begin the MLflow runs, train what is not trained."""

from collections.abc import Callable

from xmrank.config import DIRECTIONS, TrainConfig, semantic
from xmrank.embed.store import EmbeddingStore
from xmrank.losses import LOSSES
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.mine.roles import ROLES
from xmrank.runtime.directory import Manifest, StageDirectory, read_manifest
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.paths import resolve
from xmrank.tracking.run_tree import RunTree
from xmrank.train.ray import TrainingWork, train_on_cluster
from xmrank.train.settings import Best, check_loss, config_of, list_params, read_best, semantic_with
from xmrank.train.trial_data import check_draws
from xmrank.train.trials import Trial, all_trials, pending

STAGE = "train"


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
    ):
        unknown = [value for value in values if value not in known]
        if unknown:
            raise ConfigError(f"{flag} {unknown[0]}: expected one of {', '.join(known)}")
    if lists.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"{resolve(config.lists)}: these lists were mined from other embeddings than {store.directory}")
    for trial in all_trials(config):
        settings = config_of(trial, config, best)
        check_loss(settings, trial.loss)
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
    by_name = {trial.name: trial for trial in trials}
    runs = RunTree(
        output,
        STAGE,
        name=f"train {output.parent.name}",
        tags={"encoder": str(store.encoder["name"]), "dataset": store.dataset, "candidates": lists.fingerprint},
        params=semantic(config),
        inputs=stage.inputs,
        parent=parent,
    )
    runs.begin_parent()
    try:
        left = pending(trials, output)
        if left:
            ids = {trial.name: begin_run(runs, trial, config, best) for trial in left}
            about = {"lists": lists.fingerprint, "embeddings": store.fingerprint, "encoder": store.encoder}
            places = store.directory, resolve(config.lists), output
            folders = stage.work / "failures", stage.work / "lists"
            work = TrainingWork(config, best, *places, trials, about, *folders, runs.uri, ids)
            train_on_cluster(work, stage.work / "ray")
    finally:
        runs.end(
            failed=bool(pending(trials, output)),
            is_done=lambda name: by_name[name].is_done(output),
            files_of=lambda name: by_name[name].files(output),
        )
    for trial in trials:
        trial.tidy(output)
    return stage.finish(counts={"rankers": len(trials)}, settings={"threads": 1, "roles": list(ROLES)})


def begin_run(runs: RunTree, trial: Trial, config: TrainConfig, best: Best) -> str:
    """Begin or continue the MLflow run of a trial; returns its id."""
    params = list_params(config_of(trial, config, best), trial.loss, trial.direction, trial.seed)
    return runs.begin_child(trial.name, tags={"loss": trial.loss, "direction": trial.direction}, params=params)
