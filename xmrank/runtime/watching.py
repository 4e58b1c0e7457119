"""Looks at what other processes write, while this one waits for them."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from xmrank.runtime.object_stores import StorageError
from xmrank.runtime.storage import seconds_between_looks

PERIOD_S = 1.0
"""Seconds between two looks at files on a disk."""


@contextlib.contextmanager
def look_repeatedly(look: Callable[[], None], folder: Path) -> Iterator[None]:
    """Call ``look`` in a thread now and then while the block runs, and once at its end, whatever ended it.

    Args:
        look: reads files and shows what they say.
        folder: where they are; a remote one is looked at less often. One that is away is passed over: the processes
            that write there say so when they have waited too long.
    """

    def look_once() -> None:
        with contextlib.suppress(StorageError):
            look()

    def watch(stop: threading.Event) -> None:
        while not stop.wait(seconds_between_looks(folder, PERIOD_S)):
            look_once()

    try:
        with run_beside(watch):
            yield
    finally:
        look_once()


@contextlib.contextmanager
def run_beside(loop: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a function in a thread while the block runs; it ends soon after the event that it gets is set."""
    stop = threading.Event()
    thread = threading.Thread(target=loop, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
