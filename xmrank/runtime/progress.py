"""Visible progress: a bar on a terminal, one line a period otherwise."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PERIOD_S = 5.0


class Progress:
    """Counts items of one piece of work.

    Args:
        label: what is being done ("embed images").
        total: how many items there are.
        done: how many were done before this run, by a run that was interrupted.
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.first = done
        self.started = self.printed = time.monotonic()
        self.note = ""
        self.bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            fields = TextColumn("{task.fields[rate]} {task.fields[note]}")
            self.bar = Bar(*columns, fields, console=Console(stderr=True))
            self.task = self.bar.add_task(label, total=total, completed=done, rate="", note="")

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        elif self.done:
            self._print(f"{self.done} of {self.total} done before")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        elif kind is None:
            self._print(self._state())

    def advance(self, items: int = 1, note: str = "") -> None:
        """Count ``items`` more as done; ``note`` is shown behind the numbers (failures, a loss)."""
        self.done += items
        self.note = note or self.note
        if self.bar:
            self.bar.update(self.task, completed=self.done, rate=f"{self._rate():.4g}/s", note=self.note)
        elif time.monotonic() - self.printed >= PERIOD_S:
            self._print(self._state())

    def _rate(self) -> float:
        """Items a second, of this run."""
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def _state(self) -> str:
        seconds, rate = time.monotonic() - self.started, self._rate()
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate > 0 and self.done < self.total else ""
        return f"{self.done}/{self.total}, {rate:.4g}/s, {seconds:.0f} s{left}{', ' + self.note if self.note else ''}"

    def _print(self, text: str) -> None:
        self.printed = time.monotonic()
        print(f"{self.label}: {text}", file=sys.stderr, flush=True)
