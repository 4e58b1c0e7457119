"""How much is found among the first k, for many k: what the report draws as curves."""

from typing import Any

import numpy as np

from xmrank.metrics import mean_over_queries
from xmrank.protocols.galleries import Protocol

CUTS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500)


def curve_of(protocol: Protocol, scores: np.ndarray) -> dict[str, Any]:
    """Mean hit@k and recall@k over the queries, ties as in the tables.

    Args:
        scores: flat as in the protocol's lists. Of a top N, what is beyond it is not found.

    Returns:
        k: the cut-offs up to the longest list; hit and recall: as many means, None where no query counts.
    """
    longest = protocol.lists.longest
    ks = (*(k for k in CUTS if k < longest), longest)
    values = protocol.metrics(scores, ks)
    means = {kind: [mean_over_queries(values[f"{kind}@{k}"]).mean for k in ks] for kind in ("hit", "recall")}
    return {"k": list(ks), **{kind: [None if np.isnan(m) else m for m in row] for kind, row in means.items()}}
