"""Visible progress: a bar on a terminal, otherwise a line now and then; and what a stage waits for if there is none."""

import os
import sys
import threading
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from xmrank.runtime.errors import ConfigError
from xmrank.runtime.quantities import format_rate, format_seconds

COST_VARIABLE = "XMRANK_COST_PER_HOUR"
SHORTEST_PERIOD_S = 5.0
LONGEST_PERIOD_S = 60.0
RECENT_S = 60.0
RECENT_SHARE = 0.25
"""The rate is that of the last minute, or of the last quarter of the time where that is longer: the first of many items
may be slow, and say nothing of those that are left."""
ENOUGH_MARKS = 5
"""The rate is over at least so many times at which items were done. The time before the first, when processes start, is
left out as soon as there are more."""
STALL_S = 300.0
"""After so long without progress a stage says what it waits for, and again each time as long."""
ANSWER_S = 10.0
"""How long Ray may take to say what the cluster has."""


class Progress:
    """Shows how many items of a task are done, and by how many workers, the rate, the time left, and the cost so far.

    Without a terminal, a line comes at least once a minute, whether an item was done or not.

    Args:
        label: the task ("embed images").
        total: number of items.
        done: number of items that an interrupted run has done before.

    Raises:
        ConfigError: XMRANK_COST_PER_HOUR is no price.
    """

    current: "Progress | None" = None
    """The progress that is shown at present: code below a stage tells it what it does."""
    said = ""
    """What was said last of the device: it is said again when it changes, also from one stage to the next."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.started = self.printed = self.moved = time.monotonic()
        self.first = done  # only items of this run count for the rate
        self.marks = deque([(self.started, done)])
        self.shown = -1
        self.note, self.workers, self.restarts, self.activity = "", 0, 0, ""
        self.price = read_cost_per_hour()
        self.ended = threading.Event()
        self.outer: Progress | None = None
        self.bar: Bar | None = None
        if sys.stderr.isatty():
            counts = TextColumn("{task.completed:,.0f}/{task.total:,.0f}")
            columns = (TextColumn("{task.description}"), BarColumn(), counts, TextColumn("{task.fields[details]}"))
            self.bar = Bar(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(label, total=total, completed=done, details="")

    def __enter__(self) -> "Progress":
        self.outer, Progress.current = Progress.current, self
        if self.bar:
            self.bar.start()
        elif self.done:
            self._print_line(f"{self.done:,} of {self.total:,} done before")
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        Progress.current = self.outer
        if self.bar:
            self.bar.stop()
        elif kind is None and self.shown != self.done:
            self._print_state()

    def advance(self, items: int = 1, note: str = "") -> None:
        """Count ``items`` as done; ``note`` is shown after the numbers (failures, a loss)."""
        now = time.monotonic()
        # Also within an item something may move, such as the epochs of a point.
        moves = items or (note and note != self.note)
        if moves:
            self.moved = now
        self.done += items
        self.note = note or self.note
        if items:
            self._mark(now)
        # Where nothing moves, a line a minute is enough.
        period = min(LONGEST_PERIOD_S, max(SHORTEST_PERIOD_S, (now - self.started) / 20)) if moves else LONGEST_PERIOD_S
        if self.bar or now - self.printed >= period:
            self._print_state()

    def say_device(self, device: str) -> None:
        """Say in a line what the workers compute on, unless the line before said the same."""
        text = f"device {device}" + (f", {self._describe_workers()}" if self.workers else "")
        if text != Progress.said:
            Progress.said = text
            self._print_line(text)

    def _describe_workers(self) -> str:
        """The number of workers in words."""
        return f"{self.workers} worker{'' if self.workers == 1 else 's'}"

    def _mark(self, now: float) -> None:
        """Note how many items are done, and forget what is not recent, but for the last of that."""
        if len(self.marks) > 2 and now - self.marks[-2][0] < RECENT_S / 100:
            self.marks.pop()  # items that come fast need no mark each
        self.marks.append((now, self.done))
        if self.marks[0][0] == self.started and len(self.marks) > ENOUGH_MARKS:
            self.marks.popleft()
        horizon = now - max(RECENT_S, RECENT_SHARE * (now - self.started))
        while len(self.marks) > ENOUGH_MARKS and self.marks[1][0] <= horizon:
            self.marks.popleft()

    def _print_state(self) -> None:
        """Show the state in the bar, or in a line."""
        details = ", ".join(self._list_details())
        if self.bar:
            self.bar.update(self.task, completed=self.done, details=details)
        else:
            self.shown = self.done
            self._print_line(f"{self.done:,}/{self.total:,}, {details}")

    def _list_details(self) -> list[str]:
        """Time, time left, rate, workers, restarts, cost and note, as far as they are known."""
        rate = self._measure_rate()
        parts = [format_seconds(time.monotonic() - self.started)]
        if rate and self.done < self.total:
            parts.append(f"{format_seconds((self.total - self.done) / rate)} left")
        if rate:
            parts.append(format_rate(rate))
        elif self.activity and self.done < self.total:
            parts.append(f"waiting for {self.activity}")
        if self.workers:
            parts.append(self._describe_workers())
        if self.restarts:
            parts.append(f"{self.restarts} restart{'' if self.restarts == 1 else 's'}")
        if self.price is not None:
            parts.append(f"cost {self.price * (time.monotonic() - self.started) / 3600:.2f}")
        return parts + ([self.note] if self.note else [])

    def _measure_rate(self) -> float:
        """Items per second of late, and when all are done, in this run; 0 where it is not known."""
        now = time.monotonic()
        (start, first), (end, _) = self.marks[0], self.marks[-1]
        if self.done >= self.total:
            start, first = self.started, self.first
        # Between two items the rate stays what it was, but not for ever.
        if now - end > RECENT_S:
            end = now
        return (self.done - first) / (end - start) if end > start else 0.0

    def _watch(self) -> None:
        """Show the state where it was not shown for long, and say so each time the stage has not moved for long."""
        said = self.moved
        while not self.ended.wait(min(LONGEST_PERIOD_S, STALL_S) / 60):
            said = max(said, self.moved)
            now = time.monotonic()
            # A stage within this one speaks for itself.
            if Progress.current is not self:
                continue
            if now - said < STALL_S:
                if self.bar or (now - self.printed >= LONGEST_PERIOD_S and now - self.moved < STALL_S):
                    self._print_state()
                continue
            said = now
            waits = f", waiting for {self.activity}" if self.activity else ""
            self._print_line(f"no progress for {(now - self.moved) / 60:.0f} min{waits}; {describe_cluster()}")

    def _print_line(self, text: str) -> None:
        """Print a line on standard error; above the bar, if there is one."""
        self.printed = time.monotonic()
        if self.bar:
            self.bar.console.print(f"{self.label}: {text}", markup=False, highlight=False)
        else:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)


def show_activity(activity: str, workers: int | None = None, device: str | None = None) -> None:
    """Tell the progress that is shown, if there is one, what is waited for, how many processes work, and on what."""
    if Progress.current:
        Progress.current.activity = activity
        if workers is not None:
            Progress.current.workers = workers
        if device is not None:
            Progress.current.say_device(device)


def show_restart() -> None:
    """Tell the progress that is shown that workers start again after a failure."""
    if Progress.current:
        Progress.current.restarts += 1


def read_cost_per_hour() -> float | None:
    """The price of the cluster for an hour, from XMRANK_COST_PER_HOUR; None where it is not set.

    Raises:
        ConfigError: it is no number of at least 0.
    """
    text = os.environ.get(COST_VARIABLE, "")
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise ConfigError(f"{COST_VARIABLE}={text}: expected the price of the cluster for an hour, at least 0")
    return price


def describe_cluster() -> str:
    """What Ray has and what is free, if this process is connected to a cluster, and it answers."""
    ray = sys.modules.get("ray")  # most stages that show progress have imported it; this module does not
    if ray is None or not ray.is_initialized():
        return "no cluster is connected"
    answers: list[str] = []

    def query() -> None:
        try:
            total, free = ray.cluster_resources(), ray.available_resources()
        except Exception:  # of several types, when the head is gone
            return
        kinds = [kind for kind in ("CPU", "GPU") if kind in total]
        parts = [f"{free.get(kind, 0):g} of {total[kind]:g} {kind}s free" for kind in kinds]
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        answers.append(f"the cluster has {nodes} node{'' if nodes == 1 else 's'}, {', '.join(parts) or 'no CPUs'}")

    # In a thread of its own: a cluster whose head is gone may not answer at all.
    thread = threading.Thread(target=query, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    return answers[0] if answers else "the cluster does not answer"
