"""Visible progress: a bar on a terminal, otherwise a line every few seconds."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PERIOD_S = 5.0


class Progress:
    """Shows how many items of a task are done.

    Args:
        label: the task ("embed images").
        total: number of items.
        done: number of items that an interrupted run has done before.
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.first = done  # the rate counts only items of this run
        self.started = self.printed = time.monotonic()
        self.note = ""
        self.bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            # Each item's rate and note are set in `advance`.
            fields = TextColumn("{task.fields[rate]} {task.fields[note]}")
            self.bar = Bar(*columns, fields, console=Console(stderr=True))
            self.task = self.bar.add_task(label, total=total, completed=done, rate="", note="")

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        elif self.done:
            self._print_line(f"{self.done} of {self.total} done before")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        elif kind is None:
            self._print_line(self._describe_state())

    def advance(self, items: int = 1, note: str = "") -> None:
        """Count ``items`` as done; ``note`` is shown after the numbers (failures, a loss)."""
        self.done += items
        self.note = note or self.note
        if self.bar:
            self.bar.update(self.task, completed=self.done, rate=f"{self._measure_rate():.4g}/s", note=self.note)
        elif time.monotonic() - self.printed >= PERIOD_S:
            self._print_line(self._describe_state())

    def _measure_rate(self) -> float:
        """Items per second in this run."""
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def _describe_state(self) -> str:
        """The line without the label: counts, rate, time, time left and the note."""
        seconds, rate = time.monotonic() - self.started, self._measure_rate()
        parts = [f"{self.done}/{self.total}", f"{rate:.4g}/s", f"{seconds:.0f} s"]
        if rate > 0 and self.done < self.total:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def _print_line(self, text: str) -> None:
        """Print a line on standard error."""
        self.printed = time.monotonic()
        print(f"{self.label}: {text}", file=sys.stderr, flush=True)
