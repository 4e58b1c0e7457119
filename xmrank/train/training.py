"""The training itself: check, open the directory and the MLflow runs, launch the workers, finish."""

from collections.abc import Callable, Mapping
from functools import partial

from xmrank.config import DIRECTIONS, TrainConfig, semantic
from xmrank.config.printing import format_config
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.list_paths import lists_path, read_role_images
from xmrank.mine.mapped_lists import open_lists
from xmrank.mine.roles import ROLES
from xmrank.runtime.bf16_support import warn_of_slow_bf16
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.launcher import launch_workers
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.storage import remove_tree
from xmrank.tracking.active_settings import list_active
from xmrank.tracking.journal import Journal
from xmrank.tracking.run_tree import PlannedRun, RunTree
from xmrank.train.epoch_watcher import watch_epochs
from xmrank.train.first_stage_validation import measure_first_stage
from xmrank.train.run_journals import end_runs
from xmrank.train.stack_states import settle_states
from xmrank.train.stage import STAGE
from xmrank.train.token_sides import check_tokens
from xmrank.train.trainer import train_worker
from xmrank.train.training_data import check_sampling
from xmrank.train.training_work import TrainingWork
from xmrank.train.trial_settings import Best, check_loss, config_of, list_params, semantic_with
from xmrank.train.trials import Trial, all_trials, pending_trials
from xmrank.train.weak_rankers import FIRST_STAGE
from xmrank.train.word_detection import WordDetection

CACHE = "lists"
"""Folder of the unpacked lists in the stage's work."""


def train_all(
    config: TrainConfig, best: Best, store: EmbeddingStore, lists: Manifest, parent: Callable[[], str] | None
) -> Manifest:
    """Train the rankers that are not there yet, and finish the stage.

    Args:
        config: what to train.
        best: the best settings of a search.
        store, lists: outputs of the stages before.
        parent: as for `train`.

    Raises:
        ConfigError, DataError: as `train` does.
    """
    # Refuse what cannot work before anything is written.
    check_config(config, best, store, lists)
    trials, output = all_trials(config), resolve(config.output)
    inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint}
    stage = StageDirectory.open(
        output, STAGE, config=semantic_with(config, best), inputs=inputs, overwrite=config.overwrite
    )
    # Another process may have finished it since.
    if stage.done:
        return stage.done
    runs = make_run_tree(stage, config, store, parent)
    end = partial(end_runs, runs, trials, output, by_step=config.validate_every_steps is not None)
    with runs.open(end):
        if config.precision == "bf16":
            warn_of_slow_bf16("train: --precision bf16")
        runs.begin_parent()
        runs.log_config(format_config(config, STAGE))
        pending = pending_trials(trials, output)
        if pending:
            # Workers begin the runs, so that each lasts as long as its trial.
            planned = {trial.name: plan_run(runs, trial, config, best) for trial in pending}
            work = plan_work(stage, config, best, store, planned)
            # One Ray Train run for all trials, since its start takes longer than many a trial.
            with watch_epochs(work):
                launch_workers(
                    train_worker,
                    work,
                    name=STAGE,
                    scratch=stage.work / "ray",
                    workers=config.workers,
                    timeout=config.worker_timeout,
                    tasks=len(trials),
                    group_size=config.workers_per_trial,
                    # A stack may have been trained by another process than its trials are now.
                    prepare=lambda: settle_states(pending_trials(trials, output), output),
                )
            raise_failures(work)
        # Only the files of finished trials may enter the manifest.
        for trial in trials:
            trial.remove_leftovers(output)
        first_stage = measure_first_stage(resolve(config.lists), config.directions, stage.work / CACHE)
        settings = {"threads": 1, "roles": list(ROLES), FIRST_STAGE: first_stage}
        return stage.finish(counts={"rankers": len(trials)}, settings=settings)


def check_config(config: TrainConfig, best: Best, store: EmbeddingStore, lists: Manifest) -> None:
    """Refuse what cannot work before anything is started, and say where little data changes the lists.

    Raises:
        ConfigError: names the flag.
        DataError: lists that were mined from another store.
    """
    for direction in config.directions:
        if direction not in DIRECTIONS:
            raise ConfigError(f"--directions {direction}: expected one of {', '.join(DIRECTIONS)}")
    if lists.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"{resolve(config.lists)}: these lists were mined from other embeddings than {store.directory}")
    # Every trial may have settings of its own, from the best points of a search.
    notes: dict[str, str] = {}  # one of each direction: those of its seeds hardly differ
    for trial in all_trials(config):
        settings = config_of(trial, config, best)
        check_loss(settings, trial.loss)
        check_tokens(settings.ranker, store)
        note = check_sampling(resolve(config.lists), store, trial.direction, settings, trial.seed)
        notes.setdefault(trial.direction, note)
    # Points set neither the ranker's kind nor the word detection.
    images = read_role_images(resolve(config.lists), "train")
    detection = WordDetection.of(store, images, config, resolve(config.output))
    if detection is not None:
        detection.read_words()
    for note in filter(None, notes.values()):
        print(f"train: {note}")


def make_run_tree(
    stage: StageDirectory, config: TrainConfig, store: EmbeddingStore, parent: Callable[[], str] | None
) -> RunTree:
    """The MLflow runs of the stage; none is begun yet."""
    return RunTree(
        stage.directory,
        STAGE,
        name=f"train {stage.directory.parent.name}",
        tags={
            "encoder": str(store.encoder["name"]),
            "dataset": store.dataset,
            "candidates": str(stage.inputs["lists"]),
        },
        params=list_active(semantic(config)),
        inputs=stage.inputs,
        parent=parent,
    )


def plan_run(runs: RunTree, trial: Trial, config: TrainConfig, best: Best) -> PlannedRun:
    """The MLflow run of a trial, which begins with the trial."""
    params = list_params(config_of(trial, config, best), trial.loss, trial.direction, trial.seed)
    # From now on, a validation that is not in the journal was saved by a process that was then killed.
    Journal(runs.path.parent, trial.name).create()
    return runs.plan_child(trial.name, tags={"loss": trial.loss, "direction": trial.direction}, params=params)


def plan_work(
    stage: StageDirectory,
    config: TrainConfig,
    best: Best,
    store: EmbeddingStore,
    planned: Mapping[str, PlannedRun],
) -> TrainingWork:
    """What the workers are given; no failure of an earlier run is left."""
    work = TrainingWork(
        config=config,
        best=best,
        embeddings=store.directory,
        lists=resolve(config.lists),
        output=stage.directory,
        trials=all_trials(config),
        about={**stage.inputs, "encoder": store.encoder},
        failures=stage.work / "failures",
        cache=stage.work / CACHE,
        detections=stage.work / "detections",
        runs=dict(planned),
    )
    remove_tree(work.failures)
    # Large lists are unpacked here, once, so that workers only map the files.
    for direction in config.directions:
        for role in ROLES:
            open_lists(lists_path(work.lists, direction, role), work.cache)
    return work


def raise_failures(work: TrainingWork) -> None:
    """Raise the first failure that a worker has written.

    Raises:
        DataError: why the trial failed.
    """
    for failure in sorted(work.failures.glob("*")):
        raise DataError(failure.read_text())
