"""Names of the metrics, and the mean over queries."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

KS = (1, 5, 10)
"""The cut-offs every report shows."""


def check_ks(ks: Iterable[int]) -> tuple[int, ...]:
    """The cut-offs as a tuple; ValueError unless they are one or more different integers from 1 up."""
    cutoffs = tuple(ks)
    if not cutoffs or len(set(cutoffs)) < len(cutoffs) or any(k != int(k) or k < 1 for k in cutoffs):
        raise ValueError(f"ks is {cutoffs}; expected one or more different integers from 1 up")
    return tuple(int(k) for k in cutoffs)


def metric_names(ks: Sequence[int] = KS) -> tuple[str, ...]:
    """Every metric in the order of a report: hit and recall at each cut-off, MRR, and NDCG at the deepest cut-off."""
    cutoffs = check_ks(ks)
    return (*(f"hit@{k}" for k in cutoffs), *(f"recall@{k}" for k in cutoffs), "mrr", f"ndcg@{max(cutoffs)}")


METRICS = metric_names()
"""hit@1, hit@5, hit@10, recall@1, recall@5, recall@10, mrr, ndcg@10."""


def mlflow_name(metric: str) -> str:
    """The metric's name where "@" is illegal: hit@1 becomes hit_at_1."""
    return metric.replace("@", "_at_")


class QueryMean(NamedTuple):
    """A mean, with how many queries it is over and how many had no positive and were left out."""

    mean: float
    counted: int
    excluded: int


def mean_over_queries(values: ArrayLike) -> QueryMean:
    """Mean over the queries that have a value.

    Args:
        values: one metric, [queries], any real dtype; NaN where a query has no positive.

    Returns:
        (mean, counted, excluded): the float64 mean of the values that are not NaN (NaN where there is none), their
        number, and the number of NaN.

    Raises:
        ValueError: values are not one-dimensional.
    """
    per_query = np.asarray(values, dtype=np.float64)
    if per_query.ndim != 1:
        raise ValueError(f"values have shape {per_query.shape}; expected [queries]")
    # NaN is a query without a positive: it has no value, not the value 0.
    counted = per_query[~np.isnan(per_query)]
    mean = float(counted.mean()) if counted.size else float("nan")
    return QueryMean(mean, counted.size, per_query.size - counted.size)
