"""The delivery of journals to MLflow: in the background while a stage runs, before it, and by ``xmrank sync``.

Nobody waits for a server. What a job could not deliver is one line; the next run or ``xmrank sync`` delivers it.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import JOURNAL, MANIFEST
from xmrank.runtime.redaction import redact_uri
from xmrank.runtime.storage import remove_tree, seconds_between_looks
from xmrank.tracking import runs
from xmrank.tracking.journal import PARENT, Journal

if TYPE_CHECKING:
    from xmrank.tracking.sending import Delivery

PERIOD_S = 0.5
LONGEST_PAUSE_S = 60.0
"""The pause between two attempts: doubled after each that fails, up to this."""
GRACE_S = 5.0
"""How long the end of a job waits for a server that does not take a request."""
LONGEST_END_S = 15.0
"""How long it waits for one that takes requests, however slowly."""


@contextlib.contextmanager
def attempt_once() -> Iterator[None]:
    """Give up on a server soon and without a message: MLflow's own attempts last minutes, and each is a line."""
    logger = logging.getLogger("urllib3.connectionpool")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with runs.default_environment(runs.LATER_CALLS):
            yield
    finally:
        logger.setLevel(level)


class DeliverySession:
    """Delivers the journals of a stage, and of the stages within it, while they run; one a process at a time.

    Attributes:
        open: the session of this process.
        is_away: whether the last attempt failed.
    """

    open: ClassVar["DeliverySession | None"] = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.period = seconds_between_looks(folder, PERIOD_S)
        self.is_away = False
        self._reason = "no answer"
        self._stop = threading.Event()
        self._delivery: Delivery | None = None
        self._thread: threading.Thread | None = None

    def start(self, uri: str) -> None:
        """Begin to deliver; a second call does nothing."""
        if self._thread is None:
            # Imports MLflow, which a stage that logs nothing does without.
            from xmrank.tracking.sending import Delivery

            self._delivery = Delivery(uri)
            self._thread = threading.Thread(target=self._deliver, args=(self._delivery,), daemon=True)
            self._thread.start()

    def _deliver(self, delivery: "Delivery") -> None:
        pause, last = self.period, False
        while not last:
            # What was added before the end is seen by the last round.
            last = self._stop.wait(pause)
            try:
                delivery.deliver_all(list_journals(self.folder))
                self.is_away, pause = False, self.period
            except Exception as error:  # each kind of server has errors of its own; the records stay in the journal
                self.is_away, pause = True, min(2 * pause, LONGEST_PAUSE_S)
                self._reason = runs.describe_error(error)
            delivery.close()

    def finish(self) -> None:
        """Deliver the rest: wait a while if the server takes requests, but not for one that takes none."""
        self._stop.set()
        if not (self._thread and self._delivery):
            return
        answered, end = -1, time.monotonic() + LONGEST_END_S
        while self._thread.is_alive() and answered < self._delivery.requests:
            if (left := end - time.monotonic()) <= 0:
                self._reason = "answers too slowly"
                break
            answered = self._delivery.requests
            self._thread.join(min(GRACE_S, left))
        if list_pending(self.folder):
            print_left(self.folder, f"{redact_uri(self._delivery.uri)}: {self._reason}")


@contextlib.contextmanager
def deliver_while_open(folder: Path) -> Iterator[None]:
    """Deliver the journals of a stage's folder, and of those in it: first what earlier runs left, then what is added.

    Within such a block of a stage that calls this one, nothing more is done: the outer one delivers.
    """
    outer = DeliverySession.open
    if outer and folder.is_relative_to(outer.folder):
        yield
        return
    session = DeliverySession(folder)
    with attempt_once():
        deliver_journals(folder)
        DeliverySession.open = session
        try:
            yield
        finally:
            DeliverySession.open = outer
            session.finish()
    # Kept by a stage that failed: they say what was logged.
    if not list_pending(folder):
        for path in list_journals(folder):
            remove_tree(path.path.parent)


def list_journals(folder: Path) -> list[Journal]:
    """The journals beside the output of a stage and of the stages in it; those of parents first."""
    paths = [*(folder / JOURNAL).glob("*.jsonl"), *folder.glob(f"*/{JOURNAL}/*.jsonl")]
    return order_journals(paths)


def order_journals(paths: Sequence[Path]) -> list[Journal]:
    """Journals by their files: the run of an outer folder, and of ``parent``, is made before its children."""
    ordered = sorted(paths, key=lambda path: (len(path.parts), path.stem != PARENT, path))
    return [Journal(path.parents[1], path.stem) for path in ordered]


def list_pending(folder: Path) -> list[Journal]:
    """The journals of which a server does not have everything."""
    return [journal for journal in list_journals(folder) if not journal.is_delivered]


def deliver_journals(folder: Path, journals: Sequence[Journal] | None = None) -> bool:
    """Deliver what is left of a stage's journals; where the server is away, say so in one line.

    Journals of a finished stage are removed when a server has everything.

    Args:
        folder: of the stage.
        journals: those in the folder; the default is to look for the stage's.

    Returns:
        Whether everything is delivered.
    """
    journals = list_journals(folder) if journals is None else journals
    uri = ""
    try:
        if any(not journal.is_delivered for journal in journals):
            from xmrank.tracking.sending import Delivery

            uri = runs.connect_tracking()
            delivery = Delivery(uri)
            with attempt_once(), contextlib.closing(delivery):
                delivery.deliver_all(journals)
    except Exception as error:
        print_left(folder, str(error) if isinstance(error, DataError) else f"{uri}: {runs.describe_error(error)}")
        return False
    for journal in journals:
        stage = journal.path.parents[1]
        if (stage / MANIFEST).exists():
            remove_tree(stage / JOURNAL)
    return True


def print_left(folder: Path, reason: str) -> None:
    """Say in one line that a server does not have everything."""
    print(
        f"MLflow: {redact_uri(reason)}; what is not logged is kept in {folder}, to be delivered by the next run or by: "
        f"xmrank sync {folder}",
        file=sys.stderr,
    )


def sync(directory: Path) -> bool:
    """Deliver the journals of all stages in a directory; returns whether all are delivered.

    Raises:
        DataError: no such directory.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory")
    done = deliver_journals(directory, order_journals(list(directory.rglob(f"{JOURNAL}/*.jsonl"))))
    if done:
        print(f"sync: nothing below {directory} waits to be delivered")
    return done
