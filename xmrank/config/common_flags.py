"""The flags of every job that are no settings of its configuration: which settings, how it runs, what is shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from xmrank.runtime.device import AUTO, CUDA, DEVICES
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.log_levels import DEFAULT_LEVEL, LEVELS

PRESET = "--preset"
DEVICE = "--device"
CHOICES = {"--log-level": LEVELS, DEVICE: DEVICES}
"""Flags with one of a few values."""
SWITCHES = ("--print-config", "--dry-run")
"""Flags without a value."""
COMMON_FLAGS = (PRESET, *CHOICES, *SWITCHES)


@dataclass(frozen=True)
class CommonFlags:
    """What the common flags of a command line say; of a flag that is repeated, the last counts.

    Attributes:
        preset: a name or the path of a YAML file, whose settings are under those of the flags.
        log_level: which messages are shown.
        device: one of `DEVICES`; None: not given.
        print_config: print the configuration instead of running the job.
        dry_run: print what the job would do instead of doing it.
    """

    preset: str | None = None
    log_level: str = DEFAULT_LEVEL
    device: str | None = None
    print_config: bool = False
    dry_run: bool = False


def take_common_flags(arguments: Iterable[str]) -> tuple[list[str], CommonFlags]:
    """The arguments without the common flags, ``--name value`` or ``--name=value``, and what these say.

    Raises:
        ConfigError: a flag without its value, or with one that it does not take.
    """
    rest: list[str] = []
    values: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in COMMON_FLAGS:
            rest.append(word)
        elif flag in SWITCHES:
            if equals:
                raise ConfigError(f"{word}: {flag} takes no value")
            values[name_field(flag)] = True
        else:
            values[name_field(flag)] = read_value(flag, value if equals else next(words, ""))
    return rest, CommonFlags(**values)


def name_field(flag: str) -> str:
    """The attribute of `CommonFlags` that a flag sets."""
    return flag.removeprefix("--").replace("-", "_")


def read_value(flag: str, value: str) -> str:
    """The value of a flag.

    Raises:
        ConfigError: there is none, or it is not one of those that are possible.
    """
    if flag in CHOICES and value not in CHOICES[flag]:
        raise ConfigError(f"{flag} {value}: expected one of {', '.join(CHOICES[flag])}")
    if not value:
        raise ConfigError(f"{flag} needs the name of a preset or the path of a YAML file")
    return value


def describe_common_flags(presets: Sequence[str], *, uses_device: bool) -> list[str]:
    """The help text of each common flag.

    Args:
        presets: names of those that the job can take.
        uses_device: whether the job computes on one.
    """
    names = ",".join([*presets, "FILE.yaml"])
    levels = ",".join(LEVELS)
    device = f"{DEVICE} {{{','.join(DEVICES)}}}: {AUTO} (default) uses GPUs where there are some; {CUDA} needs one"
    return [
        f"{PRESET} {{{names}}}: settings under those of the flags, from a preset or a YAML file of your own",
        *([device] if uses_device else []),
        "--print-config: print all settings as a YAML file, which --preset reads, and do nothing else",
        "--dry-run: say what would be read, done and written, on which device, and what the last such run took",
        f"--log-level {{{levels}}}: messages to show, also those of Ray and MLflow (default {DEFAULT_LEVEL})",
    ]
