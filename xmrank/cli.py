"""The command line: ``xmrank mine …`` is ``python jobs/mine.py …``. Mistakes of the user end with one line.

    xmrank --help
    xmrank mine --help

Torch and Ray are imported after the flags have been read, so that ``--help`` and wrong flags answer at once.
"""

import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from xmrank import __version__
from xmrank.config.common_flags import COMMON_FLAGS, take_common_flags
from xmrank.config.hub import HUB_COMMANDS, PushConfig
from xmrank.config.jobs import JOBS, uses_device
from xmrank.config.parsing import parse_command, parse_config
from xmrank.config.printing import format_config
from xmrank.runtime.device import request_device
from xmrank.runtime.endings import Terminated, install_handlers
from xmrank.runtime.errors import ConfigError, XmrankError, describe_error, find_cause, is_loss
from xmrank.runtime.log_levels import start_logging
from xmrank.runtime.paths import resolve
from xmrank.runtime.progress import read_cost_per_hour
from xmrank.runtime.redaction import redact_uri

Config = TypeVar("Config")

COMMANDS = {
    "sync": "Deliver to MLflow what the stages in DIR could not",
    "verify": "Compare the files of all stages in DIR with the hashes in their manifests",
}
"""What the console command does with directories, besides jobs."""


def main() -> None:
    """The console command: run the job that the first argument names."""
    program, *words = sys.argv
    if not words or words[0] in ("-h", "--help"):
        print(describe_jobs())
        return
    if words[0] == "--version":
        print(f"xmrank {__version__}")
        return
    job, *arguments = words
    if job == "sync":
        sync_directories(arguments)
        return
    if job == "verify":
        verify_directories(arguments)
        return
    if job in HUB_COMMANDS:
        run_hub_command(job, arguments)
        return
    name = job.replace("-", "_")  # xmrank train-encoder
    if name not in JOBS:
        print(f"xmrank: no job {job}; expected one of: {', '.join(JOBS)}", file=sys.stderr)
        sys.exit(2)
    # From here on the command line is that of the job's script.
    sys.argv = [program, *arguments]
    run_job(name, program=f"xmrank {name}")


def sync_directories(directories: list[str]) -> None:
    """Run ``xmrank sync DIR …``: deliver to MLflow what earlier runs could not; exit 1 where the server is away."""
    if not directories or directories[0].startswith("-"):
        print(f"usage: xmrank sync DIR ...   {COMMANDS['sync']}", file=sys.stderr)
        sys.exit(0 if directories[:1] in (["-h"], ["--help"]) else 2)
    # Imports MLflow.
    from xmrank.tracking.delivery import sync

    try:
        delivered = [sync(resolve(directory)) for directory in directories]
    except XmrankError as error:
        sys.exit(report_failure("sync", error))
    sys.exit(0 if all(delivered) else 1)


def verify_directories(directories: list[str]) -> None:
    """Run ``xmrank verify DIR …``: hash the outputs of all stages there; exit 1 where one is damaged."""
    if not directories or directories[0].startswith("-"):
        print(f"usage: xmrank verify DIR ...   {COMMANDS['verify']}", file=sys.stderr)
        sys.exit(0 if directories[:1] in (["-h"], ["--help"]) else 2)
    # Imports pyarrow.
    from xmrank.runtime.verification import verify_tree

    try:
        whole = [verify_tree(resolve(directory)) for directory in directories]
    except XmrankError as error:
        sys.exit(report_failure("verify", error))
    sys.exit(0 if all(whole) else 1)


def run_hub_command(command: str, arguments: list[str]) -> None:
    """Run ``xmrank push DIR OWNER/NAME`` or ``xmrank pull OWNER/NAME DIR``; exits as `run` does."""
    install_handlers()
    try:
        config = parse_command(HUB_COMMANDS[command][1], arguments, program=f"xmrank {command}")
        # Imports the hub's client.
        from xmrank.hub.pulling import pull
        from xmrank.hub.pushing import push

        if isinstance(config, PushConfig):
            push(config)
        else:
            pull(config)
    except KeyboardInterrupt as stop:
        sys.exit(report_interruption(command, stop))
    except Exception as error:
        sys.exit(report_failure(command, error))


def describe_jobs() -> str:
    """The help text of the console command: a line for each job."""
    lines = ["usage: xmrank JOB [OPTIONS]", "", "Jobs (xmrank JOB --help lists the options):", ""]
    commands = {f"{name} DIR ...": about for name, about in COMMANDS.items()}
    commands |= {f"{name} {words}": first_sentence(config) for name, (words, config) in HUB_COMMANDS.items()}
    width = max(map(len, JOBS))
    for name, job in JOBS.items():
        lines.append(f"  {name:<{width}}  {first_sentence(job.load_config())}")
    lines += ["", "Commands:", "", *(f"  {name:<20}  {about}" for name, about in commands.items())]
    lines += ["", f"Flags of every job: {', '.join(COMMON_FLAGS)}"]
    return "\n".join(lines)


def first_sentence(config_type: type[Any]) -> str:
    """What a job does, from the class of its configuration."""
    return " ".join((config_type.__doc__ or "").split()).partition(". ")[0].removesuffix(".")


def run_job(name: str, *, program: str | None = None) -> None:
    """Run a job of the registry with the flags in ``sys.argv``, and exit.

    Args:
        name: a key of `JOBS`.
        program: how help texts call the program; None: NAME.py.
    """
    job = JOBS[name]

    def run_stage(config: object) -> None:
        # Imported here and not before: the stage takes seconds, and what is wrong should not have to wait for it.
        from xmrank.input_checks import check_inputs

        check_inputs(name, config)
        job.load_stage()(config)

    run(run_stage, job.load_config(), name=name, program=program)


def run(
    job: Callable[[Config], object], config_type: type[Config], *, name: str | None = None, program: str | None = None
) -> None:
    """Run a function with the configuration that the flags in ``sys.argv`` give, and exit; or print what that would be.

    Args:
        job: takes the configuration.
        config_type: a frozen dataclass; its attribute docstrings are the ``--help`` texts.
        name: the job's name; None: that of the script.
        program: how help texts call the program; None: NAME.py.

    Exit status: 0 done, 2 a wrong flag, 1 any other failure, 130 interrupted, 143 terminated. What the user can
    correct is one line on standard error; only a bug of xmrank shows a traceback.
    """
    name = name or Path(sys.argv[0]).stem
    install_handlers()
    try:
        _, common = take_common_flags(sys.argv[1:])
        start_logging(common.log_level)
        config = parse_config(config_type, sys.argv[1:], name=name, program=program)
        if common.print_config:
            print(format_config(config, name))
            return
        if uses_device(name):
            request_device(common.device)
        if common.dry_run:
            # Imports what reads data sets and manifests.
            from xmrank.dry_run import print_dry_run

            sys.exit(print_dry_run(name, config))
        read_cost_per_hour()  # a wrong price ends here, and not after hours
        job(config)
    except KeyboardInterrupt as stop:
        sys.exit(report_interruption(name, stop))
    except Exception as error:
        sys.exit(report_failure(name, error))


def report_interruption(name: str, stop: KeyboardInterrupt) -> int:
    """Print how a job was stopped; returns the exit status, 128 and the signal's number."""
    terminated = isinstance(stop, Terminated) or Terminated.received
    print(f"{name}: {'terminated' if terminated else 'interrupted'}", file=sys.stderr)
    return 128 + (signal.SIGTERM if terminated else signal.SIGINT)


def report_failure(name: str, error: Exception) -> int:
    """Print an error, in one line if the user can correct it; returns the exit status."""
    cause = find_cause(error)
    text = str(cause)
    if isinstance(cause, OSError) and cause.strerror:
        text = f"{cause.filename or 'writing'}: {cause.strerror}"
    elif is_loss(cause):
        text = f"lost processes or nodes of the cluster too often ({describe_error(cause)}); the same command continues"
    elif not isinstance(cause, XmrankError):
        # A bug: where it happened is what a developer needs.
        print(redact_uri("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        text = f"failed: {type(cause).__name__}: {cause}"
    print(f"{name}: {redact_uri(text)}", file=sys.stderr)
    return 2 if isinstance(cause, ConfigError) else 1
