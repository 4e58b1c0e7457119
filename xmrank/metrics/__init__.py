"""Metrics of every query, over candidate lists and over a whole gallery, and tests between methods. NumPy only.

The metrics of one list are numbers, those of a batch of lists are arrays with one value for each list:

>>> from xmrank.metrics import list_metrics, mean_over_queries
>>> one = list_metrics([0.2, 0.9, 0.5], [1, 0, 0], ks=(1, 3))
>>> {name: round(float(value), 3) for name, value in one.items()}
{'hit@1': 0.0, 'hit@3': 1.0, 'recall@1': 0.0, 'recall@3': 1.0, 'mrr': 0.333, 'ndcg@3': 0.5}

Lists of different lengths are padded and masked. A query without a positive has no value and is left out of the mean:

>>> scores = [[0.2, 0.9, 0.5], [0.7, 0.1, 0.0], [0.3, 0.2, 0.1]]
>>> labels = [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
>>> mask = [[True, True, True], [True, True, False], [True, True, True]]
>>> batch = list_metrics(scores, labels, mask)
>>> batch["hit@1"]
array([ 0.,  1., nan])
>>> mean_over_queries(batch["hit@1"])
QueryMean(mean=0.5, counted=2, excluded=1)

Equal scores are tied: a metric is its mean over the orders that a tie leaves open, whatever the order of the items.

>>> list_metrics([0.5, 0.5], [0, 1])["hit@1"]
array(0.5)
"""

from xmrank.metrics.gallery import compute_similarities, gallery_metrics, top_n
from xmrank.metrics.graded import metrics_at_r, pmrp
from xmrank.metrics.lists import Gain, list_metrics
from xmrank.metrics.precision import average_precision, expected_relevance
from xmrank.metrics.query_means import KS, METRICS, QueryMean, mean_over_queries, metric_names, mlflow_name
from xmrank.metrics.significance import (
    PairedTests,
    SeedSpread,
    holm_correction,
    paired_differences,
    paired_tests,
    seed_spread,
    smallest_p,
)

__all__ = [
    "KS",
    "METRICS",
    "Gain",
    "PairedTests",
    "QueryMean",
    "SeedSpread",
    "average_precision",
    "compute_similarities",
    "expected_relevance",
    "gallery_metrics",
    "holm_correction",
    "list_metrics",
    "mean_over_queries",
    "metric_names",
    "metrics_at_r",
    "mlflow_name",
    "paired_differences",
    "paired_tests",
    "pmrp",
    "seed_spread",
    "smallest_p",
    "top_n",
]
