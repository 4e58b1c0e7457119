"""What a job refuses of its inputs before it imports PyTorch and Ray, which takes seconds."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import MANIFEST, read_manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.remote_path import URI
from xmrank.train.checkpoint_json import read_about

PATTERN = set("{}*?[]")
"""Signs of names that stand for several files."""
STAGES = {"embeddings": "embed", "lists": "mine", "rankers": "train"}
"""Settings that name the output of a stage, and the stage."""
READ_FIRST = {
    "baselines": ("embeddings", "lists"),
    "rank": ("embeddings",),
    "register": ("rankers",),
    "tune": ("embeddings", "lists"),
}
"""Of jobs whose imports take seconds, the outputs of stages that they need whatever else is set."""


def check_inputs(job: str, config: Any) -> None:
    """Refuse inputs on this machine that are not there, or are of another stage.

    Raises:
        DataError: as the job itself would.
    """
    for name, path in list_inputs(job, config):
        if name in READ_FIRST.get(job, ()) and is_on_this_machine(path):
            read_manifest(resolve(path), STAGES[name])
    for path, flag in list_files(job, config):
        if not is_on_this_machine(path):
            continue
        if not resolve(path).exists():
            raise DataError(f"{resolve(path)}: no such file or folder ({flag})")
        # Of all stages, embeddings alone are data.
        if job == "supervised" and (resolve(path) / MANIFEST).is_file():
            read_manifest(resolve(path), STAGES["embeddings"])
    if job == "rank" and config.ranker and is_on_this_machine(Path(config.ranker)):
        directory = resolve(config.ranker)
        # The output of a training has a manifest, a ranker's folder has none.
        if not (directory / MANIFEST).exists():
            read_about(directory)


def is_on_this_machine(path: Path) -> bool:
    """Whether a path is one file or folder of this machine."""
    return not (URI.match(str(path)) or PATTERN & set(str(path)))


def list_files(job: str, config: Any) -> Iterator[tuple[Path, str]]:
    """Files and folders that a user brings, and their flags."""
    if job == "rank":
        yield config.queries, "--queries"
    if job == "supervised":
        for text in config.data:
            # NAME=PATH, or NAME=PATH,PATH.
            for part in text.split("=", 1)[1].split(","):
                yield Path(part), f"--data {text}"


def list_inputs(job: str, config: Any) -> Iterator[tuple[str, Path]]:
    """The paths that a job reads, by the names of their settings."""
    unused: tuple[str, ...] = ()
    if job == "tune" and config.target == "supervised":
        unused = ("embeddings", "lists")
    if job == "register" and config.force:
        unused = ("evaluation",)
    for setting in fields(config):
        value = getattr(config, setting.name)
        # The data set is a part of the configuration; the other parts are settings of methods.
        if setting.name == "dataset" and is_dataclass(value):
            yield from list_inputs(job, value)
        elif isinstance(value, Path) and setting.name not in ("output", *unused):
            yield setting.name, value
