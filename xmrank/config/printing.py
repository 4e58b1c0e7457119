"""A configuration as a YAML file that ``--preset`` reads back."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from xmrank.config.common import as_values
from xmrank.config.presets import EXPERIMENT
from xmrank.runtime.paths import resolve_uri
from xmrank.runtime.redaction import redact_uri
from xmrank.runtime.remote_path import URI


def format_config(config: Any, job: str) -> str:
    """The settings of a job as YAML, defaults included, without the parameters of losses that are not trained.

    Args:
        config: the job's configuration.
        job: its name, the section that the settings are in; an experiment's have a section for each stage.
    """
    values = plain(as_values(config))
    if job != EXPERIMENT:
        values = {job: values}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    lines = [f"# xmrank {job} --preset FILE.yaml"]
    if kept := list_kept_flags(config):
        # In a file they are settings as all others, which the result of a search goes over.
        lines.append(f"# Give these flags again, since --best replaces what a preset says: {', '.join(kept)}")
    return redact_uri("\n".join([*lines, text.rstrip("\n")]))


def plain(value: Any) -> Any:
    """A value in types that YAML has."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, Path):
        # Path() has folded the slashes of a URI.
        return str(resolve_uri(value) if URI.match(str(value)) else value)
    return value


def list_kept_flags(config: Any, prefix: str = "--") -> list[str]:
    """The flags that were given beside ``--best``, of the configuration or one within it."""
    flags: list[str] = []
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            flags += list_kept_flags(value, f"{prefix}{field.name}.")
        elif field.name == "explicit" and config.best is not None:
            flags += [f"{prefix}{name}" for name in sorted(value - {"best"})]
    return [flag.replace("_", "-") for flag in flags]
