"""All stages of an experiment, one after another, under one MLflow run."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from xmrank.config import ExperimentConfig, RegisterConfig, semantic
from xmrank.config.presets import EXPERIMENT
from xmrank.config.printing import format_config
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.evaluate.stage import evaluate
from xmrank.mine.stage import mine
from xmrank.report.stage import report
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.manifest import MANIFEST, Manifest, read_manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.redaction import redact_uri
from xmrank.tracking.active_settings import list_active
from xmrank.tracking.journal import PARENT
from xmrank.tracking.run_tree import RunTree
from xmrank.tracking.runs import TrackingError, connect_tracking
from xmrank.train.stage import STAGE as TRAIN
from xmrank.train.stage import train

URI = "uri"
REPORTED = "reported"
REGISTERED = "registered"
REPORT_FILES = ("report.html", "report.md", "table.csv", "table.tex")


def experiment(config: ExperimentConfig) -> Manifest:
    """Embed, mine, train, evaluate and report, and register the best rankers; what earlier runs finished is kept.

    Returns:
        The report's manifest.

    Raises:
        ConfigError, DataError: as the stages do.
    """
    output = resolve(config.output)
    parent = ExperimentRun(output, config)
    config = with_stage_directories(config)
    # A server that is away is refused now, not after hours of embedding.
    if not is_reported(config, output):
        connect_tracking()
    with parent.runs.open():
        # Every stage skips what it has finished, so a rerun goes on where the last one stopped.
        embed(config.embed)
        mine(config.mine)
        # The run is begun by the training, and only if there is something to train.
        train(config.train, parent.begin_run)
        evaluate(config.evaluate)
        manifest = report(config.report)
        parent.register_best(output)
        parent.finish_run(manifest, output / "report")
    parent.print_run()
    return manifest


def is_reported(config: ExperimentConfig, output: Path) -> bool:
    """Whether all is done, so that there is nothing to log."""
    overwrites = any(stage.overwrite for stage in (config.train, config.evaluate, config.report))
    return (output / "report" / MANIFEST).exists() and not overwrites


def with_stage_directories(config: ExperimentConfig) -> ExperimentConfig:
    """The configuration with every stage's directories inside the experiment's.

    Raises:
        ConfigError: a stage's directory was given by hand.
    """
    directories = {
        "embeddings": config.output / "embeddings",
        "lists": config.output / "lists",
        "rankers": config.output / "rankers",
        "evaluation": config.output / "evaluation",
    }
    own = {"embed": "embeddings", "mine": "lists", "train": "rankers", "evaluate": "evaluation", "report": "report"}
    changes: dict[str, Any] = {}
    for stage, folder in own.items():
        part = getattr(config, stage)
        wanted = {name: path for name, path in directories.items() if hasattr(part, name)} | {
            "output": config.output / folder
        }
        for name in wanted:
            # Only a value that differs from the default can have been given by hand.
            if getattr(part, name) != getattr(type(part)(), name):
                raise ConfigError(f"--{stage}.{name}: set by --output in an experiment; leave it out")
        changes[stage] = dataclasses.replace(part, **wanted, overwrite=part.overwrite or config.overwrite)
    return dataclasses.replace(config, **changes)


def list_params(config: ExperimentConfig) -> dict[str, Any]:
    """The settings of an experiment that have an effect, as params of its run; its file of settings has all."""
    embedded = {name: getattr(config.embed, name) for name in ("model", "pretrained")}
    embedded["dataset"] = config.embed.dataset.name
    return {
        "embed": list_active(embedded),
        "mine": {**list_active(semantic(config.mine)), "seed": config.mine.seed},
        "train": list_active(semantic(config.train)),
        "evaluate": list_active({"top_n": config.evaluate.top_n, "galleries": config.evaluate.galleries}),
    }


class ExperimentRun:
    """The experiment's MLflow run: begun when there is something to train, continued by a rerun."""

    def __init__(self, output: Path, config: ExperimentConfig) -> None:
        self.config, self.output = config, output
        self.runs = RunTree(output, EXPERIMENT, params=list_params(config))

    def begin_run(self) -> str:
        """Begin or continue the run; returns its id."""
        # Known by now, since the training, which begins the run, comes after the embedding.
        if (self.output / "embeddings" / MANIFEST).exists():
            store = EmbeddingStore.open(self.output / "embeddings", verify=False)
            self.runs.tags |= {"dataset": store.dataset, "encoder": str(store.encoder["name"])}
            self.runs.inputs = {"embeddings": store.fingerprint}
        run_id = self.runs.begin_parent()
        self.runs.log_config(format_config(self.config, EXPERIMENT))
        uri = redact_uri(self.runs.uri)
        if self.runs.notes.get(URI) != uri:
            self.runs.keep_note(URI, uri)
        return run_id

    def finish_run(self, manifest: Manifest, folder: Path) -> None:
        """Log a new report's files and end the run."""
        if self.runs.notes.get(REPORTED) != manifest.fingerprint:
            self.begin_run()
            self.runs.log_artifacts(PARENT, *(folder / name for name in REPORT_FILES))
        if self.runs.is_begun:
            self.runs.end(failed=False)
            self.runs.keep_note(REPORTED, manifest.fingerprint)

    def register_best(self, output: Path) -> None:
        """Register the best rankers, unless an earlier call did so under this name: the registry takes seconds."""
        stages = RegisterConfig(
            output / "rankers",
            self.config.register,
            output / "embeddings",
            output / "evaluation",
            model=self.config.embed.model,
            pretrained=Path(self.config.embed.pretrained) if self.config.embed.pretrained else None,
        )
        done = f"{self.config.register} {read_manifest(stages.rankers, TRAIN).fingerprint}"
        if self.config.registers and self.runs.notes.get(REGISTERED) != done:
            # Imports MLflow and torch.
            from xmrank.register.stage import register

            try:
                register(stages)
            except TrackingError as error:
                # The experiment is done without it; a rerun of a finished one is short.
                names = ("rankers", "name", "embeddings", "evaluation")
                by_hand = " ".join(["xmrank register", *(f"--{name} {getattr(stages, name)}" for name in names)])
                print(f"experiment: {error}; the next run registers, or: {by_hand}", file=sys.stderr)
                return
            self.runs.keep_note(REGISTERED, done)

    def print_run(self) -> None:
        """Print where the run is."""
        if PARENT in self.runs.ids:
            print(f"mlflow: {self.runs.notes[URI]} (experiment {self.runs.ids[PARENT]})")
