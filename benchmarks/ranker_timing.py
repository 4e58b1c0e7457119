"""Timing on a shared machine: one core, CPU time, contenders in turn, medians."""

import os
import statistics
import time
from collections.abc import Callable

import torch


def pin_to_one_core() -> None:
    """Use one thread, always on the same core if the system supports that."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call, in seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(contenders: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each contender in every round. They take turns, so that other load affects all alike.

    The first round is a warm-up and is not returned.
    """
    # The dictionary keeps the order, so each round times the contenders one after another.
    rounds = [{name: cpu_seconds(work) for name, work in contenders.items()} for _ in range(repeats + 1)]
    return {name: [seconds[name] for seconds in rounds[1:]] for name in contenders}


def lists_per_second(seconds: list[float], lists: int) -> float:
    """The median rate over the rounds."""
    return lists / statistics.median(seconds)


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as fast: the median of the ratios of each round, in which the machine was in one state."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def gemm_rate(size: int = 2048, repeats: int = 7) -> float:
    """GFLOP/s of a large fp32 matrix product, the best of several."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(cpu_seconds(lambda: left @ right) for _ in range(repeats)) / 1e9
