"""MLflow, and nothing else of xmrank: runs, metrics, artefacts, registered models."""

from xmrank.tracking.runs import (
    TrackingError,
    begin_run,
    connect,
    end_run,
    log_artifacts,
    log_metrics,
    origin_tags,
    read_status,
    set_tags,
)

__all__ = [
    "TrackingError",
    "begin_run",
    "connect",
    "end_run",
    "log_artifacts",
    "log_metrics",
    "origin_tags",
    "read_status",
    "set_tags",
]
