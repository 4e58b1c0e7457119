"""What a training needs of memory, beside its time."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What Linux takes to set the peak of a process's resident memory to what it is now."""


def with_peak_memory(work: Callable[[], Result]) -> tuple[Result, float | None]:
    """The result of some work, and the memory that it needed at most.

    Args:
        work: called once.

    Returns:
        Its result, and MiB: with a GPU, the most that PyTorch held on it; else by how much the process's resident
        memory rose at most, data that was loaded before not counted. None where the system does not tell.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return work(), torch.cuda.max_memory_allocated() / 2**20
    # What earlier work left with the allocator would be used again and not be counted.
    release_free_memory()
    try:
        RESET.write_text(RESET_PEAK)
        before = read_resident("VmRSS")
    except OSError:  # not Linux, or a container that does not let a process reset its peak
        return work(), None
    result = work()
    return result, max(0, read_resident("VmHWM") - before) / 1024


def read_resident(kind: str) -> int:
    """A size of this process in KiB: VmRSS now, VmHWM at its peak."""
    return int(STATUS.read_text().split(f"{kind}:")[1].split()[0])


def release_free_memory() -> None:
    """Give back what the allocator keeps, where it is glibc's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
