"""Is one method better than another on the same queries? A randomisation test, intervals, and Holm's correction.

The unit is the query, the statistic the mean difference of per-query values (averaged over seeds beforehand). Queries
that belong together, such as the captions of one image, form a cluster that is never split: their differences change
sign together, and they are drawn together. Seeds are reported separately (`seed_spread`), never as more queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xmrank.metrics.ties import Floats, Ints

DRAWS = 10_000
"""Default number of sign flips, and of draws of clusters."""
LEVEL = 0.95
"""Confidence level of the intervals."""
EQUAL = 1e-12
"""Per-query values this close are a tie: the means over seeds of equal values differ in their last bits."""

CELLS = 1 << 20
"""Draws × clusters held at a time (8 bytes each)."""


@dataclass(frozen=True)
class PairedTests:
    """The results of `paired_tests` in each column; every array is [columns].

    Attributes:
        difference: mean of the differences over the queries that count; NaN where none does.
        low, high: the interval of the mean difference.
        p: two-sided, not corrected.
        wins, losses, ties: queries with a difference above 0, below 0, and of 0.
        queries: those that count, the sum of these three.
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats
    wins: Ints
    losses: Ints
    ties: Ints
    queries: Ints


class SeedSpread(NamedTuple):
    """How a difference varies over seeds."""

    deviation: float
    """Standard deviation (n − 1); NaN for one seed."""
    agreeing: int
    """Seeds with the sign of the mean over seeds."""
    seeds: int


def paired_differences(method: ArrayLike, baseline: ArrayLike) -> Floats:
    """Per-query values averaged over seeds, method minus baseline.

    Args:
        method, baseline: [seeds, queries, columns], the same queries and columns; the seeds may differ in number. NaN
            where a query does not count.

    Returns:
        float64 [queries, columns]; NaN where a query does not count in one of the two.

    Raises:
        ValueError: the shapes do not fit, or there is no seed.
    """
    ours, theirs = np.asarray(method, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.ndim != 3 or theirs.ndim != 3 or ours.shape[1:] != theirs.shape[1:] or not (len(ours) and len(theirs)):
        raise ValueError(f"method {ours.shape}, baseline {theirs.shape}; expected [seeds, queries, columns] of each")
    return ours.mean(axis=0) - theirs.mean(axis=0)


def paired_tests(
    differences: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    flips: int | None = None,
    seed: int = 0,
) -> PairedTests:
    """Test whether the mean difference is 0, in every column at once.

    Test: under the null hypothesis the two methods of a pair can be exchanged, so that a cluster's summed difference
    is as likely with the other sign. p is the fraction of sign assignments whose |mean difference| is at least the
    observed one: of all 2^clusters where they are no more than `draws`, else of random ones, (1 + count)/(1 + draws).
    The same signs serve all columns.

    Interval: the 2.5 % and 97.5 % quantiles of the mean difference over draws of as many clusters with replacement
    (percentile bootstrap). It says how far the difference would move with other queries of the same kind. It is
    computed for each column alone, so it may leave out 0 where the corrected test is not significant.

    Args:
        differences: [queries, columns]; NaN where a query does not count in a column.
        clusters: which cluster a query belongs to, [queries], of any type that sorts; None: each is its own.
        draws: at least 1; of the interval, and of the test unless there are flips. Memory is bounded whatever their
            number.
        flips: draws of the test alone, at least 1. More of them reach a smaller p, which many comparisons need.
        seed: seed of the draws.

    Raises:
        ValueError: the shapes do not fit, a difference is infinite, or draws is below 1.

    Sources: the randomisation test, Smucker, Allan and Carterette, "A comparison of statistical significance tests for
        information retrieval evaluation", CIKM 2007; 1 + count, Phipson and Smyth, "Permutation p-values should never
        be zero", 2010; signs by cluster and the bootstrap of clusters, Cameron, Gelbach and Miller, "Bootstrap-based
        improvements for inference with clustered errors", 2008.
    """
    # NaN counts nowhere: as 0 in the sums, and not at all in the numbers of queries.
    values, codes = _check_differences(differences, clusters, draws)
    counted = ~np.isnan(values)
    # Rounding leaves tiny differences between equal values, all with the same sign: they are ties, and no evidence.
    present = np.where(counted & (np.abs(values) > EQUAL), values, 0.0)
    queries = counted.sum(axis=0)
    sums, sizes = _sum_clusters(present, codes), _sum_clusters(counted.astype(np.float64), codes)
    with np.errstate(invalid="ignore"):
        difference = np.where(queries > 0, present.sum(axis=0) / queries, np.nan)
    low, high = _bootstrap_intervals(sums, sizes, draws, seed)
    wins, losses = (present > 0).sum(axis=0), (present < 0).sum(axis=0)
    p = np.where(queries > 0, _sign_flip_p(sums, flips or draws, seed), np.nan)
    return PairedTests(difference, low, high, p, wins, losses, queries - wins - losses, queries)


def smallest_p(clusters: int, draws: int) -> float:
    """The smallest p that the test can have: no difference, however large, is below it.

    Args:
        clusters: how many there are.
        draws: sign flips.
    """
    # All signs equal, and all of them opposite, reach the largest difference.
    return 2.0 / 2**clusters if _is_exact(clusters, draws) else 1.0 / (1 + draws)


def holm_correction(p_values: ArrayLike) -> Floats:
    """p-values corrected for their number: the chance of even one false finding stays below the level.

    Definition: with the m values in ascending order, the i-th of them (from 0) becomes the largest of (m − j)·p_j
    over j ≤ i, at most 1.

    Args:
        p_values: any shape; NaN stays NaN and is no comparison.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    ascending = tested[np.argsort(values.reshape(-1)[tested], kind="stable")]
    # The smallest is multiplied by the number of tests, the next by one less, and so on.
    scaled = values.reshape(-1)[ascending] * np.arange(len(ascending), 0, -1)
    adjusted.reshape(-1)[ascending] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def seed_spread(differences: ArrayLike) -> SeedSpread:
    """The spread of one figure over seeds.

    Args:
        differences: each seed's mean difference, [seeds].

    Raises:
        ValueError: there is no seed.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"differences have shape {values.shape}; expected [seeds], at least one")
    # A seed agrees if its difference has the sign of the mean; a difference of 0 agrees with a mean of 0.
    signs = np.where(np.abs(values) > EQUAL, np.sign(values), 0)
    mean = float(values.mean())
    sign = np.sign(mean) if abs(mean) > EQUAL else 0.0
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return SeedSpread(deviation, int((signs == sign).sum()), len(values))


def _check_differences(differences: ArrayLike, clusters: ArrayLike | None, draws: int) -> tuple[Floats, Ints]:
    """The differences, and the clusters as numbers from 0."""
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"differences have shape {values.shape}; expected [queries, columns]")
    if np.isinf(values).any():
        raise ValueError("differences are infinite")
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1")
    if clusters is None:
        return values, np.arange(len(values))
    names = np.asarray(clusters)
    if names.shape != (len(values),):
        raise ValueError(f"clusters have shape {names.shape}; expected one for each of {len(values)} queries")
    return values, np.unique(names, return_inverse=True)[1].astype(np.int64)


def _sum_clusters(values: Floats, codes: Ints) -> Floats:
    """Sums over the queries of a cluster, [clusters, columns]."""
    sums = np.zeros((int(codes.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def _sign_flip_p(sums: Floats, draws: int, seed: int) -> Floats:
    """p of each column; the sums of clusters serve as the statistic, since the number of queries is a constant."""
    observed = np.abs(sums.sum(axis=0))
    # Equal sums that were added in another order differ in their last bits; those are ties, and count.
    least = observed - 1e-12 * np.abs(sums).sum(axis=0)
    exact = _is_exact(len(sums), draws)
    reached = np.zeros(sums.shape[1], dtype=np.int64)
    batches = _all_signs(len(sums)) if exact else _random_signs(len(sums), draws, seed)
    for signs in batches:
        reached += (np.abs(signs @ sums) >= least).sum(axis=0)
    if exact:
        return (reached / 2.0 ** len(sums)).astype(np.float64)
    return ((1.0 + reached) / (1.0 + draws)).astype(np.float64)


def _is_exact(clusters: int, draws: int) -> bool:
    """Whether every assignment of signs is tried; 2^63 and more would not fit an integer."""
    return clusters < 63 and 2**clusters <= draws


def _all_signs(clusters: int) -> Iterator[Floats]:
    """Every assignment of signs, [assignments, clusters]: the bits of the numbers from 0 on."""
    for numbers in _number_blocks(2**clusters, clusters):
        bits = numbers[:, None] >> np.arange(clusters) & 1
        yield (1 - 2 * bits).astype(np.float64)


def _random_signs(clusters: int, draws: int, seed: int) -> Iterator[Floats]:
    """Random signs, [≤ draws, clusters]."""
    generator = np.random.default_rng([seed, 0])
    for numbers in _number_blocks(draws, clusters):
        yield (1 - 2 * generator.integers(0, 2, (len(numbers), clusters), dtype=np.int8)).astype(np.float64)


def _bootstrap_intervals(sums: Floats, sizes: Floats, draws: int, seed: int) -> tuple[Floats, Floats]:
    """Quantiles of the mean difference over draws of clusters with replacement."""
    clusters, columns = sums.shape
    means = np.full((draws, columns), np.nan)
    generator = np.random.default_rng([seed, 1])
    for numbers in _number_blocks(draws if clusters else 0, clusters):
        chosen = generator.integers(0, clusters, (len(numbers), clusters))
        # How often each draw has each cluster: one count for all draws, each with numbers of its own.
        cells = chosen + clusters * np.arange(len(numbers))[:, None]
        times = np.bincount(cells.reshape(-1), minlength=cells.size).reshape(cells.shape).astype(np.float64)
        with np.errstate(invalid="ignore"):
            means[numbers] = (times @ sums) / (times @ sizes)  # NaN where only queries that do not count were drawn
    # A column without any query that counts has no interval.
    known = ~np.isnan(means).all(axis=0)
    ends = np.full((2, columns), np.nan)
    tail = (1 - LEVEL) / 2
    ends[:, known] = np.nanquantile(means[:, known], [tail, 1 - tail], axis=0)
    return ends[0], ends[1]


def _number_blocks(count: int, width: int) -> Iterator[NDArray[np.int64]]:
    """The numbers from 0 to count, in parts of at most `CELLS` cells when each is a row of this width."""
    step = max(1, CELLS // max(width, 1))
    for start in range(0, count, step):
        yield np.arange(start, min(start + step, count))
