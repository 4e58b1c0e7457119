"""The load of a machine while a run goes on, under the names of MLflow's own system metrics."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xmrank.runtime.watching import run_beside

SWITCH, INTERVAL = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
"""MLflow's variables: false turns them off; seconds between two samples."""
PERIOD_S = 10.0
SHARE = 100
"""A mean is logged once in this share of the time that has passed, so that long runs do not log without end."""


@contextlib.contextmanager
def sample_system(log: Callable[[Mapping[str, float], int], None]) -> Iterator[None]:
    """Log processor, memory, disk, network and GPUs of this machine while the block runs, in a thread.

    The first values come after ten seconds, then every ten, and from a thousand seconds on at growing intervals, of
    which they are the means.

    Args:
        log: is called with the metrics and the seconds since the begin of the block, their step.
    """
    if os.environ.get(SWITCH, "true").lower() in ("false", "0"):
        yield
        return
    interval = read_interval()
    with run_beside(lambda stop: log_samples(log, stop, interval)):
        yield


def read_interval() -> float:
    """Seconds between two samples."""
    try:
        return max(float(os.environ.get(INTERVAL, PERIOD_S)), 0.1)
    except ValueError:
        return PERIOD_S


def log_samples(log: Callable[[Mapping[str, float], int], None], stop: threading.Event, interval: float) -> None:
    """Sample until the event is set."""
    started = last = time.monotonic()
    monitors: list[Any] | None = None
    while not stop.wait(interval):
        # Imported by runs that last: it takes MLflow a while.
        monitors = make_monitors() if monitors is None else monitors
        for monitor in monitors:
            monitor.collect_metrics()
        now = time.monotonic()
        if now - last >= (now - started) / SHARE:
            log(take_means(monitors), round(now - started))
            last = now


def make_monitors() -> list[Any]:
    """MLflow's monitors; that of GPUs where there are any."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    # No GPU, no driver of it, or no library that reads it.
    with contextlib.suppress(ImportError, RuntimeError):
        monitors.append(GPUMonitor())
    return monitors


def take_means(monitors: list[Any]) -> dict[str, float]:
    """The means of the samples since the last call."""
    means: dict[str, float] = {}
    for monitor in monitors:
        means |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return means
