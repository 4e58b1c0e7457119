"""All stages of an experiment, one after another, under one MLflow run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from xmrank import tracking
from xmrank.config import ExperimentConfig, RegisterConfig
from xmrank.embed.stage import embed
from xmrank.evaluate.stage import evaluate
from xmrank.mine.stage import mine
from xmrank.register.stage import register
from xmrank.report.stage import report
from xmrank.runtime.directory import Manifest, read_manifest
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import write_json
from xmrank.runtime.paths import home, resolve
from xmrank.train.stage import STAGE as TRAIN
from xmrank.train.stage import TRACKING, connect_tracking, train

PARENT = "parent"
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
    config = with_places(config)
    output = resolve(config.output)
    embed(config.embed)
    mine(config.mine)
    parent = ExperimentRun(output, config)
    try:
        train(config.train, parent.begin)
        evaluate(config.evaluate)
        manifest = report(config.report)
        parent.register(output / "rankers")
        parent.finish(manifest, output / "report")
    except BaseException:
        parent.fail()
        raise
    if parent.uri:
        print(f"mlflow: {parent.uri} (experiment {parent.run})")
    return manifest


def with_places(config: ExperimentConfig) -> ExperimentConfig:
    """The configuration with every stage's directories inside the experiment's.

    Raises:
        ConfigError: a stage's directory was given by hand.
    """
    places = {
        "embeddings": config.output / "embeddings",
        "lists": config.output / "lists",
        "rankers": config.output / "rankers",
        "evaluation": config.output / "evaluation",
    }
    own = {"embed": "embeddings", "mine": "lists", "train": "rankers", "evaluate": "evaluation", "report": "report"}
    changes: dict[str, Any] = {}
    for stage, folder in own.items():
        part = getattr(config, stage)
        wanted = {name: path for name, path in places.items() if hasattr(part, name)} | {
            "output": config.output / folder
        }
        for name in wanted:
            if getattr(part, name) != getattr(type(part)(), name):
                raise ConfigError(f"--{stage}.{name}: set by --output in an experiment; leave it out")
        changes[stage] = dataclasses.replace(part, **wanted, overwrite=part.overwrite or config.overwrite)
    return dataclasses.replace(config, **changes)


class ExperimentRun:
    """The experiment's MLflow run: begun when there is something to train, continued by a rerun."""

    def __init__(self, output: Path, config: ExperimentConfig) -> None:
        self.path, self.config = output / TRACKING, config
        self.known: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.uri = self.known.get("uri")
        self.run = self.known.get(PARENT)
        self.running = False

    def begin(self) -> str:
        """Begin or continue the run; returns its id."""
        self.uri = connect_tracking()
        settings = {"embed.model": self.config.embed.model, "mine.seed": self.config.mine.seed}
        name, tags = f"experiment {self.path.parent.name}", {"stage": "experiment"} | tracking.origin_tags()
        self.run = tracking.begin(self.uri, home(), name, resume=self.run, tags=tags, params=settings)
        self.running = True
        self.known |= {PARENT: self.run, "uri": self.uri}
        write_json(self.path, self.known)
        return self.run

    def finish(self, manifest: Manifest, folder: Path) -> None:
        """Log a new report's files and end the run."""
        if self.known.get(REPORTED) != manifest.fingerprint:
            run = self.run if self.running and self.run else self.begin()
            assert self.uri
            tracking.log_artifacts(self.uri, run, *(folder / name for name in REPORT_FILES))
        if self.running and self.uri and self.run:
            tracking.end(self.uri, self.run)
            self.note(REPORTED, manifest.fingerprint)

    def register(self, rankers: Path) -> None:
        """Register the best rankers, unless an earlier run did so under this name: asking MLflow takes seconds."""
        done = f"{self.config.register} {read_manifest(rankers, TRAIN).fingerprint}"
        if self.config.registers and self.known.get(REGISTERED) != done:
            register(RegisterConfig(rankers, self.config.register))
            self.note(REGISTERED, done)

    def note(self, key: str, value: str) -> None:
        """Keep something for later runs."""
        self.known[key] = value
        write_json(self.path, self.known)

    def fail(self) -> None:
        """End the run as failed, if it was begun."""
        if self.running and self.uri and self.run:
            tracking.end(self.uri, self.run, failed=True)
