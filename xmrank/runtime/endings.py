"""How a job ends before its time: SIGINT and SIGTERM are exceptions, so that open runs are ended and files removed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM; a KeyboardInterrupt, so that everything that handles the one handles the other.

    Attributes:
        received: whether the signal has come: Ray raises a plain KeyboardInterrupt where it waits for a result.
    """

    received: bool = False


def raise_terminated(_number: int, _frame: FrameType | None) -> None:
    """The handler of SIGTERM."""
    Terminated.received = True
    raise Terminated


def install_handlers() -> None:
    """Make SIGINT raise KeyboardInterrupt, and SIGTERM `Terminated`; for the main thread of a job's process."""
    if threading.current_thread() is threading.main_thread():
        Terminated.received = False
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, raise_terminated)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Restore the Python handlers of both signals after a block in which a library installs its own.

    Ray's native handler prints a stack of C++ functions, and its Python one ends with the signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # The system's default would end the process without its cleaning up; Ray's handler is better then.
            if callable(handler):
                signal.signal(number, handler)
