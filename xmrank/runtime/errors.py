"""Errors that the user can correct: one line with the file, row or flag, and what was expected."""

import errno
import re

from xmrank.runtime.redaction import redact_uri

PERMANENT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Answers of the system that stay the same when an operation is repeated at once."""

LOSSES = (
    "RayActorError",
    "ActorDiedError",
    "ActorUnavailableError",
    "WorkerCrashedError",
    "NodeDiedError",
    "OutOfMemoryError",
    "ObjectLostError",
    "OwnerDiedError",
    "ObjectReconstructionFailedError",
    "LocalRayletDiedError",
)
"""Ray's errors for processes, nodes and results that are gone."""

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that end lines, command terminals or are none."""


class XmrankError(Exception):
    """An error that the user can correct; the command line prints it as one line and exits with status 1.

    Credentials of URIs in the message are left out, since messages end in logs, reports and manifests. Ends of lines
    and other control characters, which names and values in files can hold, are shown as their codes.
    """

    def __init__(self, message: str = "") -> None:
        """Keep the message, redacted."""
        super().__init__(CONTROL.sub(lambda match: repr(match[0])[1:-1], redact_uri(message)))


class ConfigError(XmrankError):
    """A wrong flag, or flags that contradict each other; exit status 2."""


class DataError(XmrankError):
    """An input file or row that violates its format; exit status 1."""


def find_cause(error: BaseException) -> BaseException:
    """The error of xmrank or of the system that Ray has wrapped in errors of its own; otherwise the error itself.

    Without such an error, it is Ray's own that a process was lost (`is_loss`), where there is one.
    """
    lost: BaseException | None = None
    # Breadth first: the outermost error that the user can act on is the most specific about the stage.
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop(0)
        # Ray makes classes that are both its own error and ours; those have a cause.
        if isinstance(current, XmrankError | OSError) and not hasattr(current, "cause"):
            return current
        if id(current) in seen:
            continue
        seen.add(id(current))
        if lost is None and is_loss(current):
            lost = current
        failures = getattr(current, "worker_failures", None)
        # Ray keeps the original in one of these attributes, Python in __cause__ or __context__.
        inner = [getattr(current, name, None) for name in ("cause", "controller_failure", "health_check_failure")]
        inner.append(current.__cause__)
        if not current.__suppress_context__:
            inner.append(current.__context__)
        if isinstance(failures, dict):
            inner += failures.values()
        pending += [e for e in inner if isinstance(e, BaseException)]
    return lost or error


def is_loss(error: BaseException) -> bool:
    """Whether an error is Ray's, and says that a process, a node or a result is gone."""
    # By name: this module is imported where Ray, which takes seconds, is not.
    if type(error).__module__ != "ray.exceptions" or type(error).__name__ not in LOSSES:
        return False
    # An actor whose constructor raised an error has not been lost.
    return not getattr(error, "actor_init_failed", False)


def is_permanent(error: BaseException) -> bool:
    """Whether a repetition would fail in the same way: an error of the user, a full disk, a missing permission."""
    return isinstance(error, XmrankError) or (isinstance(error, OSError) and error.errno in PERMANENT)


def describe_error(error: BaseException) -> str:
    """An error in one line, with its type where it is not ours."""
    first_line = str(error).strip().partition("\n")[0]
    return first_line if isinstance(error, XmrankError) else f"{type(error).__name__}: {first_line}"
