"""Visible progress: a bar on a terminal, otherwise a line now and then; and what a stage waits for if there is none."""

import os
import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from xmrank.runtime.errors import ConfigError

COST_VARIABLE = "XMRANK_COST_PER_HOUR"
SHORTEST_PERIOD_S = 5.0
LONGEST_PERIOD_S = 60.0
STALL_S = 300.0
"""After so long without progress a stage says what it waits for, and again each time as long."""
ANSWER_S = 10.0
"""How long Ray may take to say what the cluster has."""


class Progress:
    """Shows how many items of a task are done, and by how many workers, the rate, the time left, and the cost so far.

    Args:
        label: the task ("embed images").
        total: number of items.
        done: number of items that an interrupted run has done before.

    Raises:
        ConfigError: XMRANK_COST_PER_HOUR is no price.
    """

    current: "Progress | None" = None
    """The progress that is shown at present: code below a stage tells it what it does."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.first = done  # the rate counts only items of this run
        self.started = self.printed = self.moved = time.monotonic()
        self.note, self.workers, self.restarts, self.activity = "", 0, 0, ""
        self.price = read_cost_per_hour()
        self.ended = threading.Event()
        self.outer: Progress | None = None
        self.bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Bar(*columns, TextColumn("{task.fields[details]}"), console=Console(stderr=True))
            self.task = self.bar.add_task(label, total=total, completed=done, details="")

    def __enter__(self) -> "Progress":
        self.outer, Progress.current = Progress.current, self
        if self.bar:
            self.bar.start()
        elif self.done:
            self._print_line(f"{self.done} of {self.total} done before")
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        Progress.current = self.outer
        if self.bar:
            self.bar.stop()
        elif kind is None:
            self._print_line(self.describe_state())

    def advance(self, items: int = 1, note: str = "") -> None:
        """Count ``items`` as done; ``note`` is shown after the numbers (failures, a loss)."""
        self.done += items
        self.note = note or self.note
        now = time.monotonic()
        if items:
            self.moved = now
        if self.bar:
            self.bar.update(self.task, completed=self.done, details=", ".join(self._list_details()))
        elif now - self.printed >= min(LONGEST_PERIOD_S, max(SHORTEST_PERIOD_S, (now - self.started) / 20)):
            self._print_line(self.describe_state())

    def describe_state(self) -> str:
        """The line without the label: counts, time, time left, and the details."""
        seconds, rate = time.monotonic() - self.started, self._measure_rate()
        parts = [f"{self.done}/{self.total}", f"{seconds:.0f} s"]
        if rate > 0 and self.done < self.total:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        return ", ".join(parts + self._list_details())

    def _list_details(self) -> list[str]:
        """Rate, workers, restarts, cost and note, as far as they are known."""
        parts = [f"{self._measure_rate():.4g}/s"]
        if self.workers:
            parts.append(f"{self.workers} worker{'' if self.workers == 1 else 's'}")
        if self.restarts:
            parts.append(f"{self.restarts} restart{'' if self.restarts == 1 else 's'}")
        if self.price is not None:
            parts.append(f"cost {self.price * (time.monotonic() - self.started) / 3600:.2f}")
        return parts + ([self.note] if self.note else [])

    def _measure_rate(self) -> float:
        """Items per second in this run."""
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def _watch(self) -> None:
        """Say so each time the stage has not moved for ``STALL_S`` seconds."""
        said = self.moved
        while not self.ended.wait(STALL_S / 100):
            said = max(said, self.moved)
            now = time.monotonic()
            # A stage within this one speaks for itself.
            if now - said < STALL_S or Progress.current is not self:
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


def show_activity(activity: str, workers: int | None = None) -> None:
    """Tell the progress that is shown, if there is one, what is waited for now and how many processes work."""
    if Progress.current:
        Progress.current.activity = activity
        if workers is not None:
            Progress.current.workers = workers


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
