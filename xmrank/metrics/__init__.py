"""Evaluation: metrics of every query, over lists and over a whole gallery, and tests between methods."""

from .gallery import gallery_metrics, similarities, top_n
from .graded import at_r, pmrp
from .lists import Gain, list_metrics
from .precision import average_precision
from .query_means import KS, METRICS, QueryMean, mean_over_queries, metric_names, mlflow_name
from .significance import PairedTests, SeedSpread, holm, paired_differences, paired_tests, seed_spread

__all__ = [
    "KS",
    "METRICS",
    "Gain",
    "PairedTests",
    "QueryMean",
    "SeedSpread",
    "at_r",
    "average_precision",
    "gallery_metrics",
    "holm",
    "list_metrics",
    "mean_over_queries",
    "metric_names",
    "mlflow_name",
    "paired_differences",
    "paired_tests",
    "pmrp",
    "seed_spread",
    "similarities",
    "top_n",
]
