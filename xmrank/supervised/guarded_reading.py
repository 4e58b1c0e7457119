"""Starts the process that reads MATLAB's and HDF5's files, and takes the arrays from it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from xmrank.runtime.errors import DataError

Arrays = dict[str, np.ndarray]
READER = "xmrank.supervised.native_files"
SECONDS = 60.0
BYTES_PER_SECOND = 1 << 20
"""A file has a minute, and a second more for each MiB: a damaged one can keep its reader busy without end."""


class PipeReader:
    """A pipe that never returns fewer bytes than requested."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.pipe = pipe

    def read(self, size: int = -1, /) -> bytes:
        """The next ``size`` bytes.

        Raises:
            EOFError: the process has ended before it wrote them.
        """
        content = self.pipe.read(size)
        if len(content) < size:
            raise EOFError
        return content


def read_guarded(files: Sequence[Path], seconds: float = SECONDS) -> list[Arrays | DataError]:
    """The arrays of each file, or what is wrong with it.

    Args:
        files: MATLAB's and HDF5's.
        seconds: a file may take, beside those for its size.
    """
    results: list[Arrays | DataError] = []
    # A process that died has not read the files after the damaged one: the next process does.
    while len(results) < len(files):
        results += run_reader(files[len(results) :], seconds)
    return results


def run_reader(files: Sequence[Path], seconds: float) -> list[Arrays | DataError]:
    """The results of one process: all of them, or those up to the file at which it died."""
    # The process imports this very package, wherever it was imported from.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
    command = [sys.executable, "-P", "-m", READER, *(str(path.absolute()) for path in files)]
    results: list[Arrays | DataError] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout
        for path in files:
            limit = seconds + path.stat().st_size / BYTES_PER_SECOND
            timer = threading.Timer(limit, process.kill)
            timer.start()
            try:
                results.append(receive_file(process.stdout, path))
            except (EOFError, ValueError):
                results.append(DataError(f"{path}: cannot be read: {describe_end(process)}; the file is damaged"))
                break
            finally:
                timer.cancel()
        process.kill()
    return results


def receive_file(pipe: IO[bytes], path: Path) -> Arrays | DataError:
    """The arrays of one file, or the error that the process reports.

    Raises:
        EOFError, ValueError: the process has ended within the file.
    """
    arrays: Arrays = {}
    while True:
        line = pipe.readline()
        if not line:
            raise EOFError
        message = json.loads(line)
        if "error" in message:
            return DataError(f"{path}: cannot be read: {message['error']}")
        if "done" in message:
            return arrays
        arrays[message["array"]] = np.lib.format.read_array(PipeReader(pipe), allow_pickle=False)


def describe_end(process: subprocess.Popen[bytes]) -> str:
    """How a process ended that should have gone on."""
    status = process.wait()
    if status == -signal.SIGKILL:
        return "its reader was killed, because it took too long or too much memory"
    ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return f"its reader was ended {ended}"
