"""One run holds a stage's directory; another is told by whom. A holder that is dead loses it.

The lock is a file in the directory. It gets its name by a hard link, so that it is complete when it appears, and only
one process can make it, on NFS too; in an object store, by a request that fails where the name is taken. Its holder
touches it from time to time: that is how other hosts know it is alive.
"""

import contextlib
import errno
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import TEMPORARY
from xmrank.runtime.manifest import LOCK
from xmrank.runtime.object_stores import StorageError, one_attempt
from xmrank.runtime.redaction import redact_uri
from xmrank.runtime.remote_path import RemotePath

HEARTBEAT_S = 30.0
"""How often a holder touches its locks."""
SILENT_S = 300.0
"""A holder on another host is dead when its lock was not touched for this long, or so far in the future.

A heartbeat gives the lock the time of its file system, which is also what it is compared with. Clocks that differ by
less do no harm; a time further ahead is no heartbeat: it came with a copy, or from a clock that was set wrong.
"""
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)
"""Answers of file systems without hard links."""
COMMAND_LENGTH = 200


@dataclass(frozen=True)
class LockHolder:
    """The process that holds a lock.

    Attributes:
        host: its name.
        machine: tells apart machines, their boots and containers: process ids of one cannot be looked up in another.
        pid: process id.
        started: when the process began, in the words of its system; a process id is used again, with another time.
        since: when the lock was made, UTC.
        command: the command line.
        key: of this one lock.
    """

    host: str
    machine: str
    pid: int
    started: str
    since: str
    command: str
    key: str

    @classmethod
    def of_this_process(cls) -> "LockHolder":
        """This process, for a new lock."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        # Not sys.argv: the console command takes the name of the job out of it.
        command = redact_uri(shlex.join(sys.orig_argv[1:]))[:COMMAND_LENGTH]
        started = find_start(os.getpid()) or ""
        return cls(socket.gethostname(), describe_machine(), os.getpid(), started, since, command, uuid.uuid4().hex)

    def is_alive(self, silence_s: float) -> bool:
        """Whether the process lives; on another machine, whether its lock was touched lately.

        Args:
            silence_s: seconds since the lock was touched; negative where its time lies in the future.
        """
        if self.machine == describe_machine():
            return find_start(self.pid) == self.started
        return is_heartbeat(silence_s)

    def describe(self) -> str:
        """The process in one line."""
        # A command may have several lines.
        return " ".join(f"process {self.pid} on {self.host} since {self.since}: {self.command}".split())


@dataclass
class HeldLock:
    """A lock of this process.

    Attributes:
        path: of the file.
        holder: this process, or after a fork its parent.
        count: how many times it was acquired.
    """

    path: Path
    holder: LockHolder
    count: int = 1


HELD: dict[Path, HeldLock] = {}
"""The locks of this process by directory. Stages that a process opens one in the other share them."""
MUTEX = threading.RLock()
"""Guards the locks. The thread that has it may come again: a stage that is collected just then gives its lock back."""


def acquire_lock(directory: Path) -> None:
    """Hold a directory, which must exist, for this process; once more if it holds it already.

    Raises:
        DataError: another run holds it.
    """
    path = directory.resolve() / LOCK
    with MUTEX:
        held = HELD.get(path.parent)
        if held and held.holder.pid == os.getpid():
            held.count += 1
            return
        holder = LockHolder.of_this_process()
        while (now := create_lock(path, holder)) is not None:
            refuse_live_holder(directory, now)
            remove_dead_lock(path)
        HELD[path.parent] = HeldLock(path, holder)
        start_heartbeat()


def release_lock(directory: Path) -> None:
    """Give a directory back that was acquired; the file goes with the last time."""
    with MUTEX:
        held = HELD.get(directory.resolve())
        # A fork has the parent's locks in memory, but does not hold them.
        if held is None or held.holder.pid != os.getpid():
            return
        held.count -= 1
        if not held.count:
            del HELD[held.path.parent]
            # A store that is away now has the lock until others find its holder dead.
            with one_attempt(), contextlib.suppress(StorageError):
                if read_holder(held.path) == held.holder:
                    held.path.unlink(missing_ok=True)


def release_collected(directory: Path) -> None:
    """Release a lock whose stage is collected, which may be in any thread, also in the one that a store's client has.

    That one would wait for its own answer: another thread makes the request.
    """
    if isinstance(directory, RemotePath) and threading.current_thread() is not threading.main_thread():
        threading.Thread(target=release_lock, args=(directory,), daemon=True).start()
    else:
        release_lock(directory)


def require_lock(directory: Path) -> None:
    """Raise DataError when another run has taken a directory from this process, which was not heard of too long."""
    held = HELD.get(directory.resolve())
    if held is None or read_holder(held.path) != held.holder:
        raise DataError(f"{directory}: another run holds it now: this one was not heard of for {SILENT_S:.0f} s")


def refuse_live_holder(directory: Path, now: float | None = None) -> None:
    """Raise DataError when another run holds a directory.

    Args:
        directory: may have no lock.
        now: the time of the directory's file system, whose clock may differ from ours; None: our clock.
    """
    path = directory.resolve() / LOCK
    try:
        silence_s = (time.time() if now is None else now) - path.stat().st_mtime
    except FileNotFoundError:
        return
    holder = read_holder(path)
    remedy = f"if that run is known to be gone, remove {path}"
    if holder is None:
        if is_heartbeat(silence_s) and path.exists():
            raise DataError(f"{directory}: another run holds it; its {LOCK} is not readable; {remedy}")
    elif not is_own(holder) and holder.is_alive(silence_s):
        # The process of another machine cannot be looked up: a person may know more.
        advice = "" if holder.machine == describe_machine() else f"; {remedy}"
        raise DataError(f"{directory}: another run holds it: {holder.describe()}{advice}")


def is_heartbeat(silence_s: float) -> bool:
    """Whether a lock that was touched so many seconds ago (negative: in the future) shows a live holder."""
    return abs(silence_s) < SILENT_S


def is_own(holder: LockHolder) -> bool:
    """Whether this process is the holder."""
    return any(held.holder == holder and holder.pid == os.getpid() for held in HELD.values())


def create_lock(path: Path, holder: LockHolder) -> float | None:
    """Make the file of a lock; None if it was made, otherwise the time of the file system, since there is one."""
    temporary = path.with_name(f"{TEMPORARY}{holder.key[:8]}-{LOCK}")
    text = json.dumps(asdict(holder), indent=1, sort_keys=True) + "\n"
    if isinstance(path, RemotePath):
        return create_object(path, temporary, text, holder)
    temporary.write_text(text)
    now = temporary.stat().st_mtime
    try:
        os.link(temporary, path)
    except OSError as error:
        # Over NFS, a link may have been made though its answer was lost.
        if count_links(temporary) == 2 or (error.errno in NO_LINKS and create_exclusively(path, text)):
            return None
        # Our file may be gone too: the holder of the other lock sweeps temporary files.
        if error.errno in (errno.EEXIST, errno.ENOENT, *NO_LINKS):
            return now
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return None


def create_object(path: RemotePath, temporary: Path, text: str, holder: LockHolder) -> float | None:
    """`create_lock` in an object store."""
    # Read again: the answer to a request that made it may have been lost, and not all stores know the condition.
    if path.create(text.encode()) and read_holder(path) == holder:
        return None
    if read_holder(path) == holder:
        return None
    temporary.write_text(text)
    now = temporary.stat().st_mtime
    temporary.unlink(missing_ok=True)
    return now


def create_exclusively(path: Path, text: str) -> bool:
    """Make a file where hard links are not known; False if it exists. It may be seen before its text is written."""
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def count_links(path: Path) -> int:
    """The number of names of a file; 0 if it is gone."""
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0


def remove_dead_lock(path: Path) -> None:
    """Remove the lock of a dead holder. Another run may do the same: what it made in between is put back."""
    if isinstance(path, RemotePath):
        remove_dead_object(path)
        return
    dead = read_holder(path)
    aside = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{LOCK}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    with contextlib.suppress(OSError):
        if read_holder(aside) != dead:
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def remove_dead_object(path: RemotePath) -> None:
    """`remove_dead_lock` in an object store, where nothing can be put back: only one run may remove a lock.

    Raises:
        DataError: another run is about to remove it.
    """
    dead = read_holder(path)
    right = path.with_name(f"{TEMPORARY}{dead.key[:8] if dead else 'unreadable'}-removes-{LOCK}")
    if not right.create(b""):
        try:
            silence_s = time.time() - right.stat().st_mtime
        except FileNotFoundError:  # that run is done: the next look finds its lock, or none
            return
        if is_heartbeat(silence_s):
            raise DataError(f"{path.parent}: another run takes it now; try again in {SILENT_S:.0f} s")
        # Left by a run that was killed in between; the next attempt may then remove the lock.
        right.unlink(missing_ok=True)
        return
    try:
        if read_holder(path) == dead:
            path.unlink(missing_ok=True)
    finally:
        right.unlink(missing_ok=True)


def read_holder(path: Path) -> LockHolder | None:
    """Who holds a lock; None without a lock, or when its file says nothing."""
    # To open a pipe would wait for another process without end.
    if not path.is_file():
        return None
    try:
        values: Any = json.loads(path.read_text())
        holder = LockHolder(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = [value for name, value in vars(holder).items() if name != "pid"]
    is_process = type(holder.pid) is int and 0 < holder.pid < 2**31
    return holder if is_process and all(isinstance(text, str) for text in texts) else None


def start_heartbeat() -> None:
    """Touch the locks of this process from now on, in a thread that ends with it."""
    if not any(thread.name == "heartbeat" for thread in threading.enumerate()):
        threading.Thread(target=beat, name="heartbeat", daemon=True).start()


def beat() -> None:
    """Touch the locks of this process from time to time, without end."""
    while True:
        time.sleep(HEARTBEAT_S)
        touch_locks()


def touch_locks() -> None:
    """Give the locks of this process the time of their file systems."""
    with MUTEX:
        held = list(HELD.values())
    for lock in held:
        # A share or a store that is away for a moment: the next time will do.
        with one_attempt(), contextlib.suppress(OSError, StorageError):
            touch_lock(lock)


def touch_lock(lock: HeldLock) -> None:
    """Give a lock the time of its file system."""
    if not isinstance(lock.path, RemotePath):
        os.utime(lock.path)
    # A store gives a time to what is written only. A lock that another run has taken stays its own.
    elif read_holder(lock.path) == lock.holder:
        lock.path.write_text(json.dumps(asdict(lock.holder), indent=1, sort_keys=True) + "\n")


def find_start(pid: int) -> str | None:
    """When a process of this machine began, in ticks since the boot; None if it is gone, "" where it is not known."""
    try:
        # The second field is the program's name in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self").exists() or not exists_by_signal(pid) else ""
    # Dead, and its parent has not looked yet.
    return None if fields[0] in "ZX" else fields[19]


def exists_by_signal(pid: int) -> bool:
    """Whether there is a process, on a system without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def describe_machine() -> str:
    """What tells this machine, its boot and this container from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
