"""The command line of a job: a preset's settings first, flags over them, and one line for every mistake."""

import contextlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import tyro

from xmrank.config.choices import Choice, choose, find_choices, make_defaults
from xmrank.config.common_flags import describe_common_flags, take_common_flags
from xmrank.config.jobs import uses_device
from xmrank.config.presets import PRESETS, list_flags, list_presets, read_settings
from xmrank.runtime.errors import ConfigError

Config = TypeVar("Config")

NESTED_ERROR = re.compile(r"^Error parsing (\w[\w.-]*): (\w+) ")
"""How tyro reports the ValueError "width 0: expected …" of a nested dataclass that knows nothing of flags."""

LISTED_FLAG = re.compile(r"^[│ ] {5}(--[\w.-]+|[A-Z]+(?:/[A-Z]+)?) ", re.MULTILINE)
"""How tyro lists a flag or an argument, such as one that is missing; its help text follows, indented further."""
UNKNOWN = re.compile(r"Unrecognized options: (.+)")
WRONG_VALUE = re.compile(r"Error parsing (--[\w.-]+): ")
FORMS = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "INT|{None}": "a whole number, or None",
    "FLOAT|{None}": "a number, or None",
    "{None}|INT": "a whole number, or None",
    "{None}|FLOAT": "a number, or None",
    "[INT [INT ...]]": "whole numbers",
    "[FLOAT [FLOAT ...]]": "numbers",
}
"""How tyro writes what a flag takes, and how people do."""
RULE = re.compile(r"[─-]{4,}")
"""A horizontal line in tyro's messages; plain characters where the terminal's encoding is not UTF-8."""


def parse_config(
    config_type: type[Config], arguments: list[str], *, name: str, presets: Path = PRESETS, program: str | None = None
) -> Config:
    """The configuration of one job: the defaults, over them the settings of a preset, over these the flags.

    Args:
        config_type: the job's frozen dataclass; its attribute docstrings are the help texts.
        arguments: the command line without the program; may have common flags, of which ``--preset`` counts here.
        name: the job's name: the section of a preset that applies (an experiment takes the whole file).
        presets: the folder of the named presets.
        program: how the help text calls the program; None: NAME.py.

    Raises:
        ConfigError: an unknown flag, value or key of a preset, in one line.
        SystemExit: after ``--help``.
    """
    program = program or f"{name}.py"
    arguments, common = take_common_flags(arguments)
    if common.device and not uses_device(name):
        raise ConfigError(f"--device {common.device}: {name} computes on no device that could be chosen; leave it out")
    preset = common.preset
    values: Mapping[str, Any] = read_settings(preset, presets, name, config_type) if preset else {}
    # Choices come first: which flags there are depends on them.
    choices = list(find_choices(config_type))
    explicit = split_flags(arguments)
    given, chosen = apply_choices(choices, name_choices(split_flags(list_flags(values)), choices), explicit)
    # tyro starts from defaults in which each choice is made, and so knows the flags of the chosen dataclasses.
    defaults = choose(make_defaults(config_type), {c.path: c.options[chosen[c.path]] for c in choices})
    # For the help text alone: it reads all presets.
    wants_help = any(word in ("-h", "--help") for word in arguments)
    known = list_presets(presets, name, config_type) if wants_help else []
    words = [word for flag in given for word in flag]
    common_flags = describe_common_flags(known, uses_device=uses_device(name))
    description = describe_job(config_type, choices, chosen, common_flags)
    source = f" (preset {preset})" if preset else ""
    config = call_tyro(config_type, words, source, prog=program, default=defaults, description=description)
    return mark_explicit(config, {name_setting(flag) for flag in explicit})


def parse_command(config_type: type[Config], arguments: list[str], *, program: str) -> Config:
    """The configuration of a command that is no job: it takes arguments without a flag, and no presets.

    Raises:
        ConfigError: an argument is missing, or an unknown flag or value, in one line.
        SystemExit: after ``--help``.
    """
    return call_tyro(config_type, arguments, prog=program, description=" ".join((config_type.__doc__ or "").split()))


def call_tyro(config_type: type[Config], words: list[str], source: str = "", **options: Any) -> Config:
    """The configuration that tyro makes of a command line.

    Args:
        config_type: a dataclass.
        words: the command line.
        source: where settings may come from besides, for the message.
        options: of ``tyro.cli``.

    Raises:
        ConfigError: in one line.
        SystemExit: after ``--help``.
    """
    # tyro prints a framed message and exits; its text becomes a single line.
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config_type, args=words, config=(tyro.conf.AvoidSubcommands,), **options)
    # A nested configuration knows its flags without the prefix.
    except ConfigError as error:
        raise ConfigError(write_as_given(str(error), words)) from None
    except SystemExit as stop:
        if stop.code in (0, None):  # after --help
            raise
        raise ConfigError(join_message(complaint.getvalue(), words) + source) from None


def write_as_given(message: str, words: Sequence[str]) -> str:
    """A message with its flags as they are in the command line: ``--train.losses`` where it says ``--losses``."""
    given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}

    def find(match: re.Match[str]) -> str:
        longer = [flag for flag in given if flag.endswith(f".{match[1]}")]
        return longer[0] if match[0] not in given and len(longer) == 1 else match[0]

    return re.sub(r"(?<![\w-])--([a-z][\w.-]*)", find, message)


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
        # Nested configurations know their settings without the prefix: train.epochs is epochs in TrainConfig.
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
        # No value begins with two dashes; a negative number has one.
        if not groups or word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def name_setting(flag: list[str]) -> str:
    """The dotted field name that a flag sets: ``--train.no-validate-start`` gives ``train.validate_start``."""
    name = flag[0].partition("=")[0].removeprefix("--").replace("-", "_")
    head, dot, last = name.rpartition(".")
    return f"{head}{dot}{last.removeprefix('no_')}"


def name_choices(preset: list[list[str]], choices: list[Choice]) -> list[list[str]]:
    """The flags of a preset, where a choice may be a mapping with the key ``name``, as they are on a command line."""
    renamed = []
    for word, *rest in preset:
        for choice in choices:
            # A preset may write --ranker.name, and --dataset.annotations for a flat choice.
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
        # A flag goes before a preset, and a preset before the default.
        of_preset = in_preset or find_implied(choice, preset) or choice.default
        name = chosen[choice.path] = in_flags or find_implied(choice, explicit) or of_preset
        if name != of_preset:
            preset = [
                f for f in preset if choice.has_setting(name, name_setting(f)) or not choice.claims(name_setting(f))
            ]
        for flag in [*preset, *explicit]:
            if choice.claims(name_setting(flag)) and not choice.has_setting(name, name_setting(flag)):
                refuse_setting(choice, name, flag)
    return [*preset, *explicit], chosen


def take_choice(choice: Choice, flags: list[list[str]]) -> tuple[str | None, list[list[str]]]:
    """The name that the last flag of a choice gives, and the other flags.

    Raises:
        ConfigError: not the name of an option.
    """
    name, rest = None, []
    for flag in flags:
        if not flag[0].startswith("--") or name_setting(flag) != choice.path:
            rest.append(flag)
            continue
        # Several values are joined, so that the message shows all of them.
        word, _, value = flag[0].partition("=")
        name = " ".join([value, *flag[1:]]).strip()
        if name not in choice.options:
            raise ConfigError(f"{word} {name}".rstrip() + f": expected one of {', '.join(choice.options)}")
    return name, rest


def find_implied(choice: Choice, flags: list[list[str]]) -> str | None:
    """The option that a flag implies because no other has it; of several, the first's. None without such a flag."""
    implied = (choice.implied_by(name_setting(flag)) for flag in flags)
    return next((option for option in implied if option), None)


def refuse_setting(choice: Choice, name: str, flag: list[str]) -> None:
    """Raise the ConfigError for a setting that the chosen option does not have."""
    word = flag[0].partition("=")[0]
    field = choice.path.rpartition(".")[2]
    settings = ", ".join(setting.replace("_", "-") for setting in choice.list_settings(name))
    raise ConfigError(f"{word}: {field} {name} has no such setting; it has {settings or 'none'}")


def describe_job(
    config_type: type[Any], choices: list[Choice], chosen: Mapping[str, str], common: Sequence[str]
) -> str:
    """The text above the flags in ``--help``: what the job does, common flags and choices, which tyro does not list."""
    # A paragraph for the docstring and for each choice: tyro keeps empty lines only.
    lines = [" ".join((config_type.__doc__ or "").split())]
    lines += common
    for choice in choices:
        flag, name = f"--{choice.path.replace('_', '-')}", chosen[choice.path]
        names = ",".join(choice.options)
        lines.append(
            f"{flag} {{{names}}}: now {name}, whose settings are below. For those of another: {flag} NAME --help"
        )
    return "\n\n".join(lines)


def join_message(box: str, words: Sequence[str]) -> str:
    """The message inside tyro's framed error in one line.

    Args:
        box: the frame with its text.
        words: of the command line.
    """
    if "Missing from" in box:
        # Flags that do not exist are listed behind the missing ones, in the same form.
        required, _, unknown = box.partition("Unrecognized options")
        message = f"{', '.join(LISTED_FLAG.findall(required))}: required"
        not_known = LISTED_FLAG.findall(unknown)
        return f"{message}; {', '.join(not_known)}: no such flag" if not_known else message
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]  # the first line is a title
    if lines and RULE.fullmatch(lines[0]):
        del lines[0]
    end = next((number for number, line in enumerate(lines) if RULE.fullmatch(line)), len(lines))
    message = " ".join(" ".join(lines[:end]).split()) or " ".join(box.split())
    if unknown_words := UNKNOWN.match(message):
        return describe_unknown(unknown_words[1].split(", "), LISTED_FLAG.findall(box))
    if wrong := WRONG_VALUE.match(message):
        return describe_wrong_value(wrong[1], words, lines[end:]) or message
    return NESTED_ERROR.sub(lambda error: f"--{error[1]}.{error[2].replace('_', '-')} ", message)


def describe_unknown(unknown: Sequence[str], alike: Sequence[str]) -> str:
    """What is wrong with words that are no flag, nor the value of one.

    Args:
        unknown: the words.
        alike: flags that there are and that look alike.
    """
    flags = [word.partition("=")[0] for word in unknown if word.startswith("--")]
    if not flags:
        return f"{' '.join(unknown)}: expected a flag"
    close = [name for flag in flags for name in get_close_matches(flag, alike, 2, 0.7)]
    return f"{', '.join(flags)}: no such flag" + (f"; close to it: {', '.join(dict.fromkeys(close))}" if close else "")


def describe_wrong_value(flag: str, words: Sequence[str], lines: Sequence[str]) -> str:
    """What is wrong with the value of a flag; empty where its help says nothing of numbers.

    Args:
        flag: begins with ``--``.
        words: of the command line.
        lines: the flag's help.
    """
    form = next((line.removeprefix(flag).strip() for line in lines if line.startswith(f"{flag} ")), "")
    if form not in FORMS:
        return ""
    values = next((given[1:] for given in split_flags(words) if given[0].replace("_", "-") == flag), [])
    return f"{flag} {' '.join(values)}: expected {FORMS[form]}"
