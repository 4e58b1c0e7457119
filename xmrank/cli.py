"""What every job's command line shares: a preset first, flags over it, one line for what the user can mend."""

import contextlib
import io
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from xmrank.config.choices import Choice, choose, find_choices, make_defaults
from xmrank.runtime.errors import ConfigError, XmrankError

Config = TypeVar("Config")

NESTED_ERROR = re.compile(r"^Error parsing (\w[\w.-]*): (\w+) ")
"""How tyro reports the ValueError "width 0: expected …" of a nested dataclass that knows nothing of flags."""


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
    choices = list(find_choices(config_type))
    explicit = split_flags(arguments)
    given, chosen = apply_choices(choices, name_choices(split_flags(flags_of(values)), choices), explicit)
    defaults = choose(make_defaults(config_type), {c.path: c.options[chosen[c.path]] for c in choices})
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                config_type,
                args=[word for flag in given for word in flag],
                prog=f"{name}.py",
                default=defaults,
                description=describe(config_type, choices, chosen),
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(one_line(complaint.getvalue()) + (f" (preset {preset})" if preset else "")) from None
    return mark_explicit(config, {name_of(flag) for flag in explicit})


def mark_explicit(config: Config, names: Iterable[str], prefix: str = "") -> Config:
    """Note the settings that were given as flags in every configuration that has a field for it, nested ones included.

    Args:
        config: the configuration; not a dataclass: returned as it is.
        names: dotted field names from the root.
        prefix: dotted name of ``config`` itself, with a dot at the end.
    """
    if not is_dataclass(config):
        return config
    changes: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        marked = mark_explicit(value, names, f"{prefix}{field.name}.")
        if marked is not value:
            changes[field.name] = marked
    if "explicit" in (field.name for field in fields(config)):
        changes["explicit"] = frozenset(name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return replace(config, **changes) if changes else config  # type: ignore[type-var]


def split_flags(words: Iterable[str]) -> list[list[str]]:
    """The words of a command line in groups, each a flag and its values; words before the first flag form a group."""
    groups: list[list[str]] = []
    for word in words:
        if not groups or word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def name_of(flag: list[str]) -> str:
    """The dotted field name that a flag sets: ``--train.no-validate-start`` gives ``train.validate_start``."""
    name = flag[0].partition("=")[0].removeprefix("--").replace("-", "_")
    head, dot, last = name.rpartition(".")
    return f"{head}{dot}{last.removeprefix('no_')}"


def name_choices(preset: list[list[str]], choices: list[Choice]) -> list[list[str]]:
    """The flags of a preset, where a choice may be a mapping with the key ``name``, as they are on a command line."""
    renamed = []
    for word, *rest in preset:
        for choice in choices:
            path = choice.path.replace("_", "-")
            if word == f"--{path}.name":
                word = f"--{path}"
            elif choice.flat and word.startswith(f"--{path}."):
                word = f"--{choice.prefix.replace('_', '-')}{word.removeprefix(f'--{path}.')}"
        renamed.append([word, *rest])
    return renamed


def apply_choices(
    choices: list[Choice], preset: list[list[str]], explicit: list[list[str]]
) -> tuple[list[list[str]], dict[str, str]]:
    """Take the choices out of the flags: the remaining flags, and the name of each chosen option.

    What a preset sets for its own choice is dropped where the command line makes another choice, unless that has the
    setting too: ``--preset demo --train.ranker linear`` keeps the features, and not the dropout.

    Raises:
        ConfigError: an unknown name, or a setting that the chosen option does not have.
    """
    chosen = {}
    for choice in choices:
        in_preset, preset = take_choice(choice, preset)
        in_flags, explicit = take_choice(choice, explicit)
        of_preset = in_preset or find_implied(choice, preset) or choice.default
        name = chosen[choice.path] = in_flags or find_implied(choice, explicit) or of_preset
        if name != of_preset:
            preset = [f for f in preset if choice.has_setting(name, name_of(f)) or not choice.claims(name_of(f))]
        for flag in [*preset, *explicit]:
            if choice.claims(name_of(flag)) and not choice.has_setting(name, name_of(flag)):
                refuse_setting(choice, name, flag)
    return [*preset, *explicit], chosen


def take_choice(choice: Choice, flags: list[list[str]]) -> tuple[str | None, list[list[str]]]:
    """The name that the last flag of a choice gives, and the other flags.

    Raises:
        ConfigError: not the name of an option.
    """
    name, rest = None, []
    for flag in flags:
        if not flag[0].startswith("--") or name_of(flag) != choice.path:
            rest.append(flag)
            continue
        word, _, value = flag[0].partition("=")
        name = " ".join([value, *flag[1:]]).strip()
        if name not in choice.options:
            raise ConfigError(f"{word} {name}".rstrip() + f": expected one of {', '.join(choice.options)}")
    return name, rest


def find_implied(choice: Choice, flags: list[list[str]]) -> str | None:
    """The option that a flag implies because no other has it; of several, the first's. None without such a flag."""
    implied = (choice.implied_by(name_of(flag)) for flag in flags)
    return next((option for option in implied if option), None)


def refuse_setting(choice: Choice, name: str, flag: list[str]) -> None:
    """Raise the ConfigError for a setting that the chosen option does not have."""
    word = flag[0].partition("=")[0]
    field = choice.path.rpartition(".")[2]
    settings = ", ".join(setting.replace("_", "-") for setting in choice.list_settings(name))
    raise ConfigError(f"{word}: {field} {name} has no such setting; it has {settings or 'none'}")


def describe(config_type: type[Any], choices: list[Choice], chosen: Mapping[str, str]) -> str:
    """The text above the flags in ``--help``: what the job does, and its choices, which tyro does not list."""
    lines = [" ".join((config_type.__doc__ or "").split())]
    for choice in choices:
        flag, name = f"--{choice.path.replace('_', '-')}", chosen[choice.path]
        names = ",".join(choice.options)
        lines.append(
            f"{flag} {{{names}}}: now {name}, whose settings are below. For those of another: {flag} NAME --help"
        )
    return "\n\n".join(lines)


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
    lines = [line.strip().strip("│").strip() for line in box.splitlines() if "│" in line]
    rule = next((i for i, line in enumerate(lines) if line.startswith("──")), len(lines))
    message = " ".join(" ".join(lines[:rule]).split()) or " ".join(box.split())
    return NESTED_ERROR.sub(lambda error: f"--{error[1]}.{error[2].replace('_', '-')} ", message)


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
