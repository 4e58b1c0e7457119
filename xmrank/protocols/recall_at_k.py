"""Recall over the cut-off: mean hit@k and recall@k for many k, which the report draws as curves."""

from typing import Any

import numpy as np

from xmrank.metrics import mean_over_queries
from xmrank.protocols.galleries import ListProtocol

CUT_OFFS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500)


def recall_curve(protocol: ListProtocol, scores: np.ndarray) -> dict[str, Any]:
    """Mean hit@k and recall@k over the queries, with ties in expectation as in the tables.

    Args:
        scores: flat as in the protocol's lists. Relevant items beyond a top N count as not retrieved.

    Returns:
        k: the cut-offs up to the longest list; hit and recall: as many means, None where no query counts.
    """
    longest = protocol.lists.longest
    ks = [k for k in CUT_OFFS if k < longest] + [longest]
    # All cut-offs in one pass over the lists.
    values = protocol.measure(scores, ks)
    curve: dict[str, Any] = {"k": ks}
    for kind in ("hit", "recall"):
        means = [mean_over_queries(values[f"{kind}@{k}"]).mean for k in ks]
        curve[kind] = [None if np.isnan(mean) else mean for mean in means]
    return curve
