"""Evaluation: metrics of every query, over lists and over a whole gallery."""

from .gallery import gallery_metrics, similarities, top_n
from .metrics import Gain, list_metrics
from .summary import KS, METRICS, QueryMean, mean_over_queries, metric_names, mlflow_name

__all__ = [
    "KS",
    "METRICS",
    "Gain",
    "QueryMean",
    "gallery_metrics",
    "list_metrics",
    "mean_over_queries",
    "metric_names",
    "mlflow_name",
    "similarities",
    "top_n",
]
