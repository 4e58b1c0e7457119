"""MLflow, and nothing else of xmrank: runs, metrics, artefacts, registered models."""

from xmrank.tracking.runs import (
    TrackingError,
    begin,
    connect,
    end,
    log_artifacts,
    log_metrics,
    origin_tags,
    set_tags,
    status,
)

__all__ = [
    "TrackingError",
    "begin",
    "connect",
    "end",
    "log_artifacts",
    "log_metrics",
    "origin_tags",
    "set_tags",
    "status",
]
