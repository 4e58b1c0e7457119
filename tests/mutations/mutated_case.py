"""One case: a valid input, one change, and what its reader makes of it."""

import contextlib
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from mutations.byte_edits import BYTE_EDITS, SPECIAL_FILES
from mutations.input_kind import InputKind, digest_value
from mutations.value_edits import VALUE_EDITS
from xmrank.runtime.errors import XmrankError

SECONDS = 10
AT_ONCE = 50
MEMORY = 200 << 20
"""Bytes that reading a damaged file of a few kB may take more than has ever been in use."""
REFUSED, SAME, OTHER = "refused", "same values", "other values"


class TooLong(BaseException):
    """The reader took longer than ``SECONDS``. Not an Exception: readers take those for a fault of the file."""


@dataclass(frozen=True)
class CaseResult:
    """What became of a case.

    Attributes:
        change: name of the edit and of the file.
        outcome: one of the three allowed ones, or what was wrong.
        detail: the message.
    """

    kind: str
    number: int
    change: str
    outcome: str
    detail: str
    seconds: float

    @property
    def is_fault(self) -> bool:
        """Whether this must not happen."""
        return self.outcome not in (REFUSED, SAME, OTHER)


class Workbench:
    """A kind's valid input in a folder, in which one case after the other changes a file and restores it."""

    def __init__(self, kind: InputKind, folder: Path) -> None:
        """Make the valid input in a new folder, and read it."""
        self.kind, self.folder, self.original = kind, folder / "input", folder / "original"
        self.original.mkdir(parents=True)
        kind.make(self.original)
        shutil.copytree(self.original, self.folder, symlinks=True)
        self.files = sorted(path for path in self.folder.glob(kind.files) if path.is_file())
        assert self.files, f"{kind.name}: no file fits {kind.files}"
        self.expected = digest_value(kind.read_many(self.files)[0] if kind.read_many else kind.read(self.folder))

    def run_many(self, seed: int, numbers: Sequence[int]) -> Iterator[CaseResult]:
        """The cases of some numbers."""
        if self.kind.read_many is None:
            yield from (self.run(seed, number) for number in numbers)
            return
        for start in range(0, len(numbers), AT_ONCE):
            yield from self._run_at_once(seed, numbers[start : start + AT_ONCE])

    def run(self, seed: int, number: int) -> CaseResult:
        """The case of this number: the same for the same seed."""
        random = Random(f"{seed} {self.kind.name} {number}")
        path = random.choice(self.files)
        self._restore(path)
        change = change_file(path, random)
        started = time.monotonic()
        before = peak_memory()
        outcome, detail = self._measure(lambda: self.kind.read(self.folder), path, SECONDS)
        seconds = time.monotonic() - started
        if (grown := peak_memory() - before) > MEMORY:
            outcome, detail = "memory", f"{grown >> 20} MB for a file of {path.stat().st_size} bytes; {detail}"
        self._restore(path)
        return CaseResult(self.kind.name, number, f"{change} {path.name}", outcome, detail, seconds)

    def _run_at_once(self, seed: int, numbers: Sequence[int]) -> Iterator[CaseResult]:
        """Some cases whose files one process reads, one after the other."""
        assert self.kind.read_many
        files, changes = [], []
        for number in numbers:
            random = Random(f"{seed} {self.kind.name} {number}")
            original = self.original / random.choice(self.files).relative_to(self.folder)
            file = self.folder.with_name(f"case{number}") / original.name
            file.parent.mkdir()
            shutil.copy2(original, file)
            changes.append(f"{change_file(file, random, allow_special=False)} {file.name}")
            files.append(file)
        started = time.monotonic()
        values = self.kind.read_many(files)
        seconds = (time.monotonic() - started) / len(files)
        for number, file, change, value in zip(numbers, files, changes, values, strict=True):
            outcome, detail = self._measure(lambda value=value: raise_error(value), file, SECONDS)
            yield CaseResult(self.kind.name, number, change, outcome, detail, seconds)
            shutil.rmtree(file.parent)

    def _measure(self, read: Callable[[], Any], path: Path, seconds: float) -> tuple[str, str]:
        """The outcome of reading, and the message."""
        try:
            with limit_time(seconds):
                value = read()
        except XmrankError as error:
            return self._check_message(str(error), path)
        except OSError as error:
            # The command line prints the system's errors in one line, with the file.
            named = error.filename is not None and error.strerror
            return self._check_message(f"{error.filename}: {error.strerror}", path) if named else describe(error)
        except TooLong:
            return "hang", f"longer than {seconds} s"
        except MemoryError as error:
            return "memory", str(error)
        except Exception as error:
            return describe(error)
        same = digest_value(value) == self.expected
        if not same and self.kind.is_covered:
            return "silently other values", ""
        return (SAME if same else OTHER), ""

    def _check_message(self, text: str, path: Path) -> tuple[str, str]:
        """A refusal is one line that names the file, or its folder."""
        if len(text.splitlines()) > 1:
            return "message of several lines", text
        names = [path.name, path.stem, self.folder.name, path.parent.name, *self.kind.also]
        return (REFUSED if any(name in text for name in names) else "message without the file"), text

    def _restore(self, path: Path) -> None:
        """Put back what a case changed."""
        if self.kind.writes:
            shutil.rmtree(self.folder)
            shutil.copytree(self.original, self.folder, symlinks=True)
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        shutil.copy2(self.original / path.relative_to(self.folder), path)


def describe(error: Exception) -> tuple[str, str]:
    """An error that users would see as a traceback: its type and where it was raised."""
    trace = error.__traceback__
    where = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/xmrank/" in code.co_filename:
            where = f"{code.co_filename.rpartition('/xmrank/')[2]}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return f"traceback: {type(error).__name__} at {where}", " ".join(str(error).split())[:200]


def raise_error(value: Any) -> Any:
    """A value, or the error that it is."""
    if isinstance(value, Exception):
        raise value
    return value


def peak_memory() -> int:
    """The most bytes that this process has ever had in memory."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def change_file(path: Path, random: Random, *, allow_special: bool = True) -> str:
    """Damage a file; returns the name of the change."""
    if allow_special and random.random() < 0.04:
        name = random.choice(list(SPECIAL_FILES))
        path.unlink()
        SPECIAL_FILES[name](path)
        return name
    edits = list(BYTE_EDITS.values())
    of_values = VALUE_EDITS.get(path.suffix, ())
    edit = random.choice(of_values if of_values and random.random() < 0.6 else edits)
    content = path.read_bytes()
    path.write_bytes(edit(content, random))
    return edit.__name__


@contextlib.contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """Raise TooLong in the block after some time."""

    def stop(number: int, frame: FrameType | None) -> Any:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
