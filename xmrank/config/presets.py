"""Presets: YAML files with a section of settings for each job."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from xmrank.config.jobs import JOBS
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.paths import as_path

PRESETS = Path(__file__).parents[1] / "presets"
"""The named presets, which come with the package."""
EXPERIMENT = "experiment"
"""The job that takes a preset as a whole; the others take the section of their name."""
VALUE_LIMIT = 100_000


def read_settings(preset: str, folder: Path, job: str, config_type: type[Any]) -> Mapping[str, Any]:
    """The settings in a preset for one job.

    Args:
        preset: a name, or the path of a YAML file.
        folder: the folder of the named presets.
        job: a key of `JOBS`.
        config_type: the class of its configuration.

    Raises:
        ConfigError: no such preset, or one that is not a mapping of jobs to settings.
    """
    values = read_yaml(preset, folder)
    if job != EXPERIMENT:
        return take_section(values, job, preset)
    # tyro refuses unknown keys, but the settings of another job deserve a message of their own.
    stages = {field.name for field in fields(config_type)}
    for key in values:
        if key in JOBS and key not in stages:
            raise ConfigError(f"--preset {preset}: is for {key}.py, which is no stage of an experiment")
    return values


def list_presets(folder: Path, job: str, config_type: type[Any]) -> list[str]:
    """The names of the presets in a folder that a job can take."""
    names = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            read_settings(path.stem, folder, job, config_type)
        except ConfigError:  # of other jobs
            continue
        names.append(path.stem)
    return names


def read_yaml(preset: str, folder: Path) -> dict[str, Any]:
    """The mapping in a preset file.

    Raises:
        ConfigError: no such preset (the known ones are listed), or a file that is not a YAML mapping.
    """
    # The suffix decides, so that a file named like a preset is not read by mistake.
    path = as_path(preset) if preset.endswith((".yaml", ".yml")) else folder / f"{preset}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise ConfigError(f"--preset {preset}: no such preset; expected a YAML file or one of: {known}")
    try:
        values = yaml.safe_load(path.read_text())
        # A few lines of aliases of aliases can stand for 10^20 values.
        if count_values(values, {}) > VALUE_LIMIT:
            raise ValueError(f"more than {VALUE_LIMIT:,} values")
        # An escape can bring half a character, an alias a list that contains itself: neither is a setting.
        json.dumps(values, default=str, skipkeys=True, ensure_ascii=False).encode()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--preset {preset}: {path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"--preset {preset}: {path.name} must hold a mapping of stages to their settings")
    return values


def count_values(value: Any, known: dict[int, int]) -> int:
    """How many values a YAML value consists of, where those behind an alias count each time.

    Args:
        value: of any form; in one that contains itself, the inner one counts once.
        known: the counts by the values' ids.
    """
    # Each value is looked at once, however often aliases repeat it.
    if id(value) not in known:
        known[id(value)] = 1
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        known[id(value)] += sum(count_values(part, known) for part in parts)
    return known[id(value)]


def take_section(values: Mapping[str, Any], job: str, preset: str) -> Mapping[str, Any]:
    """A job's section of a preset.

    Raises:
        ConfigError: no section for the job, one that is not a mapping, or one whose name is no job: a typo would
            otherwise be ignored.
    """
    known = {*JOBS, job}  # a script outside of the registry may have presets too
    for key, section in values.items():
        # Other keys, such as the output of an experiment, are not for this job.
        if isinstance(section, Mapping) and key not in known:
            raise ConfigError(f"--preset {preset}: no job {key}; expected a section of: {', '.join(sorted(known))}")
    if job not in values:
        sections = ", ".join(key for key in values if key in JOBS)
        raise ConfigError(f"--preset {preset}: has no section {job}; it has: {sections or 'none for any job'}")
    section = values[job]
    # A section without settings leaves the defaults.
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"--preset {preset}: {job} is {section}, expected a mapping of its settings")
    return section


def list_flags(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The words of a command line that sets the values of a nested mapping.

    So presets and command lines go through the same parser.
    """
    for key, value in values.items():
        flag = f"{prefix}{str(key).replace('_', '-')}"
        if isinstance(value, Mapping):
            yield from list_flags(value, f"{flag}.")
        elif isinstance(value, bool):
            # tyro's form of a switch: --mine.overwrite, --mine.no-overwrite
            head, dot, last = flag.rpartition(".")
            yield f"--{flag}" if value else f"--{head}{dot}no-{last}"
        else:
            yield f"--{flag}"
            yield from map(str, value) if isinstance(value, list) else (str(value),)
