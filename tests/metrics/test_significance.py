"""Paired tests on small cases that can be counted by hand, under the null hypothesis, and with an effect."""

import itertools
import math
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from xmrank.metrics import holm_correction, paired_differences, paired_tests, seed_spread

approx = pytest.approx


def column(*values):
    return np.array(values, float)[:, None]


def by_enumeration(sums):
    """The fraction of sign assignments whose |sum| reaches the observed one."""
    observed = abs(sum(sums))
    totals = [abs(sum(s * x for s, x in zip(signs, sums, strict=True))) for signs in signs_of(len(sums))]
    return sum(total >= observed - 1e-9 for total in totals) / len(totals)


def signs_of(count):
    return list(itertools.product((1, -1), repeat=count))


def test_three_queries_by_hand():
    # Sums of ±1 ±2 ±3: |6| is reached by +++ and −−− only, of eight assignments.
    result = paired_tests(column(1.0, 2.0, 3.0))
    assert result.p[0] == 2 / 8
    assert result.difference[0] == approx((1 + 2 + 3) / 3)
    assert (result.wins[0], result.losses[0], result.ties[0], result.queries[0]) == (3, 0, 0, 3)


def test_signs_flip_by_cluster():
    # Two images of two captions each: the sums are 1 + 2 and 3 − 1, so 5 is reached by ++ and −− of four.
    result = paired_tests(column(1.0, 2.0, 3.0, -1.0), np.array(["a", "a", "b", "b"]))
    assert result.p[0] == 2 / 4
    assert result.difference[0] == approx((1 + 2 + 3 - 1) / 4)
    # As queries of their own, |5| or more is reached by 1 + 2 + 3 + 1, −1 + 2 + 3 + 1, 1 + 2 + 3 − 1, and mirrored.
    assert paired_tests(column(1.0, 2.0, 3.0, -1.0)).p[0] == by_enumeration([1, 2, 3, -1]) == 6 / 16


def test_clusters_may_come_in_any_order():
    values = np.random.default_rng(0).normal(size=(40, 2))
    clusters = np.repeat(np.arange(8), 5)
    order = np.random.default_rng(1).permutation(40)
    one, other = paired_tests(values, clusters), paired_tests(values[order], clusters[order])
    assert_allclose(one.p, other.p)
    assert_allclose(one.low, other.low)


def test_columns_are_tested_as_if_alone():
    values = np.random.default_rng(0).normal(0.1, 1, size=(200, 3))
    together = paired_tests(values)
    for number in range(3):
        alone = paired_tests(values[:, [number]])
        for name in vars(together):
            assert_allclose(getattr(together, name)[number], getattr(alone, name)[0])


@pytest.mark.parametrize("seed", range(3))
def test_random_signs_come_close_to_all_signs(seed):
    values = np.random.default_rng(seed).normal(0.4, 1, size=(12, 1))  # 4,096 assignments
    exact = paired_tests(values, draws=4096).p[0]
    assert exact == approx(by_enumeration(values[:, 0].tolist()))
    drawn = paired_tests(values, draws=4095, seed=seed).p[0]
    assert drawn == approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4095))


def test_scipy_agrees():
    values = np.random.default_rng(3).normal(0.3, 1, size=10)
    mean = lambda a, b, axis: np.mean(a - b, axis=axis)  # noqa: E731
    theirs = stats.permutation_test((values, np.zeros(10)), mean, permutation_type="samples", n_resamples=2000)
    assert paired_tests(values[:, None]).p[0] == approx(theirs.pvalue)


def test_a_random_p_is_never_zero():
    result = paired_tests(np.full((100, 1), 0.5), draws=999)
    assert result.p[0] == 1 / 1000
    assert result.low[0] == result.high[0] == 0.5


def test_no_difference_at_all():
    result = paired_tests(np.zeros((50, 1)))
    assert (result.p[0], result.low[0], result.high[0], result.ties[0]) == (1.0, 0.0, 0.0, 50)


def test_the_last_bits_of_equal_values_are_a_tie():
    seeds = np.array([0.1, 0.2, 0.3])
    result = paired_tests(column(seeds.mean() - seeds[::-1].mean(), 0.3 - (0.1 + 0.2)))
    assert (result.wins[0], result.losses[0], result.ties[0]) == (0, 0, 2)


def test_queries_that_do_not_count_are_left_out():
    values = column(1.0, np.nan, 2.0, np.nan, 3.0)
    result, without = paired_tests(values), paired_tests(column(1.0, 2.0, 3.0))
    assert (result.difference[0], result.queries[0]) == (without.difference[0], 3)
    assert result.p[0] == without.p[0]
    nothing = paired_tests(np.full((4, 1), np.nan))
    assert np.isnan([nothing.p[0], nothing.difference[0], nothing.low[0], nothing.high[0]]).all()


def test_no_query_at_all():
    result = paired_tests(np.empty((0, 2)))
    assert np.isnan(result.p).all()
    assert result.queries.tolist() == [0, 0]


def test_the_same_seed_gives_the_same_draws():
    values = np.random.default_rng(0).normal(0.05, 1, size=(100, 1))
    one, same, other = (paired_tests(values, draws=500, seed=s) for s in (0, 0, 1))
    assert (one.p, one.low) == (same.p, same.low)
    assert (one.p, one.low) != (other.p, other.low)


def test_under_the_null_hypothesis_p_is_uniform():
    # 400 columns of 30 clusters with 5 dependent queries each: p below 5 % in 5 % of them.
    generator = np.random.default_rng(5)
    common = generator.normal(size=(30, 400))
    values = np.repeat(common, 5, axis=0) + 0.3 * generator.normal(size=(150, 400))
    clusters = np.repeat(np.arange(30), 5)
    p = paired_tests(values, clusters, draws=999).p
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.02 < (p < 0.05).mean() < 0.09
    # Taken as 150 queries, the same values look significant far too often.
    assert (paired_tests(values, draws=999).p < 0.05).mean() > 0.25


def test_an_effect_is_detected_as_often_as_by_the_t_test():
    values = np.random.default_rng(6).normal(0.25, 1, size=(120, 300))
    p = paired_tests(values, draws=999).p
    theirs = stats.ttest_1samp(values, 0).pvalue
    power, expected = (p < 0.05).mean(), (theirs < 0.05).mean()
    assert expected > 0.7
    assert power == approx(expected, abs=0.03)


def test_the_interval_covers_the_true_difference():
    generator = np.random.default_rng(7)
    values = np.repeat(generator.normal(0.2, 1, size=(100, 400)), 2, axis=0)
    result = paired_tests(values, np.repeat(np.arange(100), 2), draws=999)
    covered = ((result.low <= 0.2) & (result.high >= 0.2)).mean()
    assert 0.91 < covered < 0.98
    assert ((result.low <= result.difference) & (result.difference <= result.high)).all()


def test_thousands_of_queries_and_draws_take_seconds():
    values = np.random.default_rng(0).integers(-1, 2, size=(10_000, 32)).astype(float)
    started = time.process_time()
    paired_tests(values, np.repeat(np.arange(2000), 5))
    assert time.process_time() - started < 30


def test_holm_by_hand():
    # In order 0.01, 0.02, 0.03, 0.04: 4·0.01, 3·0.02, 2·0.03, and 1·0.04, which may not fall below the one before.
    assert_allclose(holm_correction([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    assert_allclose(holm_correction([0.5, 0.4, 0.6]), [1.0, 1.0, 1.0])
    assert_allclose(holm_correction([[0.01, np.nan], [0.04, 0.03]]), [[0.03, np.nan], [0.06, 0.06]])
    assert holm_correction([]).tolist() == []


def test_holm_is_bonferroni_for_the_smallest_and_never_below_p():
    p = np.random.default_rng(0).random(50) ** 3
    result = holm_correction(p)
    assert result.min() == approx(50 * p.min())
    assert (result >= p).all()
    assert (np.argsort(result, kind="stable")[:5] == np.argsort(p, kind="stable")[:5]).all()


def test_seeds_are_averaged_and_never_pooled():
    method = np.array([[[1.0], [0.0]], [[1.0], [1.0]]])  # two seeds, two queries, one column
    baseline = np.array([[[0.0], [1.0]]])
    assert_allclose(paired_differences(method, baseline), [[1.0 - 0.0], [0.5 - 1.0]])
    more = np.repeat(method, 50, axis=0)
    assert_allclose(paired_differences(more, baseline), paired_differences(method, baseline))


def test_a_query_that_does_not_count_in_one_method_does_not_count():
    result = paired_differences([[[1.0], [np.nan]]], [[[np.nan], [1.0]]])
    assert np.isnan(result).all()


def test_seed_spread_by_hand():
    result = seed_spread([0.3, 0.1, -0.1])
    assert result.deviation == approx(math.sqrt((0.2**2 + 0 + 0.2**2) / (3 - 1)))
    assert (result.agreeing, result.seeds) == (2, 3)
    assert seed_spread([-0.1, -0.2]).agreeing == 2
    assert seed_spread([0.0]).agreeing == 1
    assert math.isnan(seed_spread([0.5]).deviation)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: paired_tests(np.zeros(3)), "expected \\[queries, columns\\]"),
        (lambda: paired_tests(np.full((2, 1), np.inf)), "infinite"),
        (lambda: paired_tests(np.zeros((3, 1)), [0, 1]), "one for each of 3 queries"),
        (lambda: paired_tests(np.zeros((3, 1)), draws=0), "draws is 0"),
        (lambda: paired_differences(np.zeros((1, 2, 1)), np.zeros((1, 3, 1))), "expected \\[seeds, queries"),
        (lambda: paired_differences(np.zeros((0, 2, 1)), np.zeros((1, 2, 1))), "expected \\[seeds, queries"),
        (lambda: seed_spread([]), "at least one"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_the_rounding_of_a_mean_over_seeds_is_no_difference():
    # (0.2 + 0.2 + 0.2) / 3 is above 0.2 by one unit in the last digit, for every query.
    values = np.full((3, 40, 1), 0.2)
    differences = paired_differences(values, values[:1])
    assert np.all(differences > 0)
    tests = paired_tests(differences)
    assert (tests.p[0], tests.low[0], tests.high[0]) == (1.0, 0.0, 0.0)
