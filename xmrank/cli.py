"""What every job's command line shares: a preset first, flags over it, one line for what the user can mend."""

import contextlib
import io
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from xmrank.runtime.errors import ConfigError, XmrankError

Config = TypeVar("Config")


def run(job: Callable[[Config], object], config_type: type[Config]) -> None:
    """Run one job from the command line and exit.

    Args:
        job: the stage's function; it takes the configuration.
        config_type: a frozen dataclass; its attribute docstrings are the ``--help`` texts.

    Exit status: 0 done, 2 a wrong flag, 1 any other failure, 130 interrupted. What the user can mend is one line on
    standard error; only a fault of xmrank itself shows a traceback.
    """
    script = Path(sys.argv[0])
    name = script.stem
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        job(parse(config_type, sys.argv[1:], name=name, presets=script.parent / "configs"))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(report_failure(name, error))


def parse(config_type: type[Config], arguments: list[str], *, name: str, presets: Path) -> Config:
    """The configuration of one job: the preset's values, then the flags.

    Args:
        config_type: the job's dataclass.
        arguments: the command line without the program; may hold ``--preset NAME`` or ``--preset FILE.yaml``.
        name: the job's name: a preset's section of that name applies (an experiment takes the whole file).
        presets: the folder of the named presets.

    Raises:
        ConfigError: a flag, a value or a preset's key that is not known, in one line.
    """
    arguments, preset = take_preset(arguments)
    values: Mapping[str, Any] = read_preset(preset, presets) if preset else {}
    if name != "experiment":
        values = section_of(values, name, preset, presets.parent)
    else:
        refuse_other_jobs(values, config_type, preset, presets.parent)
    arguments = [*flags_of(values), *arguments]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config_type, args=arguments, prog=f"{name}.py")
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(one_line(complaint.getvalue()) + (f" (preset {preset})" if preset else "")) from None


def take_preset(arguments: list[str]) -> tuple[list[str], str | None]:
    """The arguments without ``--preset X`` or ``--preset=X``, and X."""
    rest: list[str] = []
    preset = None
    words = iter(arguments)
    for word in words:
        if word == "--preset":
            preset = next(words, None)
            if preset is None:
                raise ConfigError("--preset needs the name of a preset or the path of a YAML file")
        elif word.startswith("--preset="):
            preset = word.removeprefix("--preset=")
        else:
            rest.append(word)
    return rest, preset


def read_preset(preset: str, folder: Path) -> dict[str, Any]:
    """The mapping in a preset file.

    Raises:
        ConfigError: no such preset (the known ones are named), or a file that is not a YAML mapping.
    """
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else folder / f"{preset}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(f"--preset {preset}: no such preset; expected a YAML file or one of: {known}")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--preset {preset}: {path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"--preset {preset}: {path.name} must hold a mapping of stages to their settings")
    return values


def section_of(values: Mapping[str, Any], name: str, preset: str | None, scripts: Path) -> Mapping[str, Any]:
    """A job's section of a preset; empty when it has none.

    Raises:
        ConfigError: a section that is no mapping, or one of no job's name: a slip of the pen would else be ignored.
    """
    jobs = {name} | {script.stem for script in scripts.glob("*.py")}
    for key, section in values.items():
        if isinstance(section, Mapping) and key not in jobs:
            raise ConfigError(f"--preset {preset}: no job {key}; expected a section of: {', '.join(sorted(jobs))}")
    section = values.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"--preset {preset}: {name} is {section}, expected a mapping of its settings")
    return section


def refuse_other_jobs(values: Mapping[str, Any], config_type: type[Any], preset: str | None, scripts: Path) -> None:
    """Raise ConfigError when a preset is for a job that is no stage of an experiment."""
    for key in values:
        if (scripts / f"{key}.py").is_file() and key not in config_type.__dataclass_fields__:
            raise ConfigError(f"--preset {preset}: is for {key}.py, which is no stage of an experiment")


def flags_of(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A nested mapping as flags, so that presets and the command line go through one parser."""
    for key, value in values.items():
        flag = f"{prefix}{str(key).replace('_', '-')}"
        if isinstance(value, Mapping):
            yield from flags_of(value, f"{flag}.")
        elif isinstance(value, bool):
            head, _, last = flag.rpartition(".")
            yield f"--{flag}" if value else f"--{head + '.' if head else ''}no-{last}"
        else:
            yield f"--{flag}"
            yield from map(str, value) if isinstance(value, list) else (str(value),)


def one_line(box: str) -> str:
    """The message inside tyro's framed error: what stands above the first rule, in one line."""
    lines = [re.sub(r"^\W*│|│\s*$", "", line).strip() for line in box.splitlines() if "│" in line]
    rule = next((i for i, line in enumerate(lines) if line.startswith("──")), len(lines))
    return " ".join(" ".join(lines[:rule]).split()) or " ".join(box.split())


def report_failure(name: str, error: Exception) -> int:
    """Print the failure as a user should see it; returns the exit status."""
    cause = find_cause(error)
    if isinstance(cause, ConfigError):
        print(f"{name}: {cause}", file=sys.stderr)
        return 2
    if isinstance(cause, XmrankError):
        print(f"{name}: {cause}", file=sys.stderr)
    elif isinstance(cause, OSError) and cause.strerror:
        print(f"{name}: {cause.filename or 'writing'}: {cause.strerror}", file=sys.stderr)
    else:
        traceback.print_exception(error)
        print(f"{name}: failed: {type(cause).__name__}: {cause}", file=sys.stderr)
    return 1


def find_cause(error: BaseException) -> BaseException:
    """The first failure of xmrank or of the system inside what Ray wrapped around it, or the error itself."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop(0)
        if isinstance(current, XmrankError | OSError) and not hasattr(current, "cause"):
            return current
        if id(current) in seen:
            continue
        seen.add(id(current))
        failures = getattr(current, "worker_failures", None)
        inner = [getattr(current, "cause", None), current.__cause__]
        inner += [] if current.__suppress_context__ else [current.__context__]
        inner += list(failures.values()) if isinstance(failures, dict) else []
        pending += [e for e in inner if isinstance(e, BaseException)]
    return error
