"""What a job refuses of its inputs before it imports PyTorch and Ray, which takes seconds."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from xmrank.config.embed import EmbedConfig
from xmrank.config.experiment import ExperimentConfig
from xmrank.datasets.hub import is_hub_name
from xmrank.embed.model_source import check_model, standard_model
from xmrank.embed.token_store import NO_TOKENS, names_tokens
from xmrank.experiment.stage import with_stage_directories
from xmrank.runtime.errors import ConfigError, DataError, XmrankError
from xmrank.runtime.manifest import MANIFEST, read_manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.remote_path import URI
from xmrank.train.checkpoint_json import read_about

FLAG = re.compile(r"(?<![\w-])--(?=[a-z])")
"""Where a flag begins in a message."""
REUSE = "--reuse"
PATTERN = set("{}*?[]")
"""Signs of names that stand for several files."""
STAGES = {"embeddings": "embed", "lists": "mine", "rankers": "train", "evaluation": "evaluate"}
"""Settings that name the output of a stage, and the stage."""
READ_FIRST = {
    "baselines": ("embeddings", "lists"),
    "rank": ("embeddings",),
    "register": ("rankers", "embeddings", "evaluation"),
    "train": ("embeddings", "lists"),
    "tune": ("embeddings", "lists"),
}
"""Of jobs whose imports take seconds, the outputs of stages that they need whatever else is set."""


def check_inputs(job: str, config: Any) -> None:
    """Refuse inputs on this machine that are not there, or are of another stage.

    Raises:
        DataError: as the job itself would.
        ConfigError: an unknown model or tag, or a flag that is missing.
    """
    if job == "rank" and config.queries is None:
        raise ConfigError("--queries: expected a text file, a table or a folder of images")
    if job == "supervised" and not config.data:
        raise ConfigError("--data: expected one or more labelled sets, each as NAME=PATH")
    if job == "experiment":
        check_experiment(config)
        return
    for name, path in list_inputs(job, config):
        if name in READ_FIRST.get(job, ()) and is_on_this_machine(path):
            manifest = read_manifest(resolve(path), STAGES[name])
            if name == "embeddings" and reads_tokens(job, config) and not names_tokens(manifest.outputs):
                raise DataError(f"{resolve(path)}: {NO_TOKENS}")
    for path, flag in list_files(job, config):
        check_file(job, path, flag)
    if job == "rank" and config.ranker and is_on_this_machine(Path(config.ranker)):
        directory = resolve(config.ranker)
        # The output of a training has a manifest, a ranker's folder has none.
        if not (directory / MANIFEST).exists():
            read_about(directory)
    if job == "train_encoder":
        standard_model(config.model)
    if job == "embed" and not config.imports and not config.inspect:
        check_model(config.model, config.pretrained, init_seed=config.init_seed)


def check_experiment(config: ExperimentConfig) -> None:
    """Check the inputs of the embedding: of the other stages nothing is there yet. Errors as of `check_inputs`."""
    embed = with_stage_directories(config).embed
    try:
        check_inputs("embed", replace(embed, overwrite=embed.overwrite or config.overwrite))
    except XmrankError as error:
        raise type(error)(FLAG.sub("--embed.", str(error))) from None


def check_file(job: str, path: Path, flag: str) -> None:
    """Raise DataError for a file or folder that is not on this machine, where it would have to be."""
    if not is_on_this_machine(path):
        return
    if not resolve(path).exists():
        raise DataError(f"{resolve(path)}: no such file or folder ({flag})")
    # Of all stages, embeddings alone are data.
    if flag == REUSE or (job == "supervised" and (resolve(path) / MANIFEST).is_file()):
        read_manifest(resolve(path), STAGES["embeddings"])


def reads_tokens(job: str, config: Any) -> bool:
    """Whether a training surely reads tokens: --best may bring another ranker."""
    return job == "train" and config.ranker.reads_tokens and not config.best


def is_of_hub(config: EmbedConfig, name: str, path: Path) -> bool:
    """Whether a setting of an embedding may be the name of a data set on the hub."""
    return name == "images" and config.dataset.name == "huggingface" and is_hub_name(str(path))


def is_finished(config: EmbedConfig) -> bool:
    """Whether the output of an embedding is there, and stays."""
    return not config.overwrite and (resolve(config.output) / MANIFEST).exists()


def is_on_this_machine(path: Path) -> bool:
    """Whether a path is one file or folder of this machine."""
    return not (URI.match(str(path)) or PATTERN & set(str(path)))


def list_files(job: str, config: Any) -> Iterator[tuple[Path, str]]:
    """Files and folders that a user brings, and their flags."""
    if job == "rank":
        yield config.queries, "--queries"
    if job == "embed":
        for name, path in list_inputs(job, config):
            flag = f"--{name.replace('_', '-')}"
            # Folders that are not there are names on the hub; a store that is finished reuses nothing.
            if not (is_of_hub(config, name, path) or (flag == REUSE and is_finished(config))):
                yield path, flag
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
