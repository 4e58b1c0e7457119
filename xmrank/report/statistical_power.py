"""Whether the tests of a table can find anything: few images and many tests leave no p below the level."""

from collections.abc import Sequence

import numpy as np

from xmrank.metrics import smallest_p
from xmrank.pages.wording import ALPHA


def find_smallest_p(differences: np.ndarray, clusters: Sequence[str], draws: int) -> float:
    """The smallest p that a column of a test can have.

    Args:
        differences: [queries, columns], at least one query; NaN where a query does not count.
        clusters: of each query. One without a query that counts has no sign to change, and is not counted.
        draws: sign flips.
    """
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    # The rows of a cluster follow each other: a cluster counts in a column where any of them does.
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    counted = np.logical_or.reduceat(~np.isnan(differences[order]), starts, axis=0)
    return smallest_p(int(counted.sum(axis=0).max()), draws)


def describe_power(tests: int, lowest: float) -> str:
    """Whether a difference of a table can be significant at all; empty where it can.

    Args:
        tests: how many p is corrected for.
        lowest: the smallest corrected p that there can be.
    """
    if lowest < ALPHA:
        return ""
    return (
        f"No difference of this table can be significant: for so few images and {tests:,} tests the smallest "
        f"possible corrected p is {min(lowest, 1.0):.2g}."
    )
