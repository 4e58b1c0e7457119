"""Random draws without replacement."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmrank.mine import draw
from xmrank.mine.draw import draw_distinct, first_occurrences

DENSE, SPARSE = 12, 1000  # for draws of 5: below and above DENSE_FACTOR × 5


def distinct(rows):
    return all(len(set(row)) == len(row) for row in rows.tolist())


@given(st.lists(st.integers(5, 300), max_size=20), st.integers(1, 5), st.integers(0, 2**32))
def test_a_row_holds_different_numbers_below_its_limit(available, count, seed):
    available = np.array(available, np.int64)
    drawn = draw_distinct(np.random.default_rng(seed), available, count)
    assert drawn.shape == (len(available), count) and drawn.dtype == np.int64
    assert (drawn >= 0).all() and (drawn < available[:, None]).all()
    assert distinct(drawn)


def test_all_of_a_pool_may_be_drawn():
    drawn = draw_distinct(np.random.default_rng(0), np.full(50, 7), 7)
    assert np.array_equal(np.sort(drawn, 1), np.tile(np.arange(7), (50, 1)))


def test_a_large_draw_from_a_large_pool():
    available = np.array([1000, 5000, 1001])
    drawn = draw_distinct(np.random.default_rng(0), available, 200)
    assert distinct(drawn) and (drawn < available[:, None]).all()


def test_the_same_seed_draws_the_same():
    for available in (DENSE, SPARSE):
        one, same, other = (
            draw_distinct(np.random.default_rng(seed), np.full(9, available), 5).tolist() for seed in (1, 1, 2)
        )
        assert one == same != other


@pytest.mark.parametrize("available", [[8], [24], [6, 30], [30, 200]])
def test_every_number_is_in_every_column_as_likely(available):
    # 4,000 draws of 5 for each limit: a number is expected in 4,000 · 5 / n of them.
    repeats, count = 4000, 5
    limits = np.tile(available, repeats)
    drawn = draw_distinct(np.random.default_rng(3), limits, count)
    for limit in available:
        rows = drawn[limits == limit]
        for column in range(count):
            seen = np.bincount(rows[:, column], minlength=limit)
            expected = repeats / limit
            chi_square = ((seen - expected) ** 2 / expected).sum()
            # limit − 1 degrees of freedom: mean limit − 1, variance 2 (limit − 1); five deviations away is no chance.
            assert abs(chi_square - (limit - 1)) < 5 * np.sqrt(2 * (limit - 1))


def test_pairs_are_as_likely_as_each_other():
    drawn = draw_distinct(np.random.default_rng(5), np.full(6000, 20), 5)  # sparse: 20 = 4 × 5
    together = np.zeros((20, 20))
    for row in drawn:
        together[np.ix_(row, row)] += 1
    pairs = together[np.triu_indices(20, 1)]
    expected = 6000 * 5 * 4 / (20 * 19)
    assert pairs == pytest.approx(np.full(190, expected), abs=5 * np.sqrt(expected))


class Repeating:
    """A generator that gives one number again and again before it gives others."""

    def __init__(self, rounds):
        self.rounds = rounds

    def random(self, shape):
        self.rounds -= 1
        return np.full(shape, 0.25) if self.rounds >= 0 else np.tile(np.linspace(0.3, 0.9, shape[1]), (shape[0], 1))


@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_a_row_that_runs_short_draws_again(rounds):
    drawn = draw_distinct(Repeating(rounds), np.array([1000, 400]), 5)
    # Width 5 + 8 + 25 // 400 = 13: then 0.3, 0.35, 0.4, 0.45 of 1000 and of 400, after the one number 0.25.
    assert drawn.tolist() == [[250, 300, 350, 400, 450], [100, 120, 140, 160, 180]]


def test_rows_that_do_not_run_short_keep_what_they_drew():
    class Uneven:
        calls = 0

        def random(self, shape):
            self.calls += 1
            spread = np.linspace(0, 0.9, shape[1])
            return np.stack([np.full(shape[1], 0.5), spread]) if self.calls == 1 else spread[None] + 0.05

    drawn = draw_distinct(Uneven(), np.array([1000, 1000]), 3)
    step = 0.9 / (3 + 8 - 1)  # width 3 + 8 + 9 // 1000 = 11
    assert drawn[0].tolist() == [500, 50, int(1000 * (0.05 + step))]
    assert drawn[1].tolist() == [0, int(1000 * step), int(1000 * 2 * step)]


def test_which_way_is_taken_depends_on_the_smallest_pool(monkeypatch):
    monkeypatch.setattr(draw, "draw_dense", lambda generator, available, count: "dense")
    generator = np.random.default_rng(0)
    assert isinstance(draw_distinct(generator, np.array([19, 1000]), 5), str)
    assert not isinstance(draw_distinct(generator, np.array([20, 1000]), 5), str)


def test_first_occurrences_by_hand():
    drawn = np.array([[3, 1, 3, 3, 2, 1], [0, 0, 0, 0, 0, 0]])
    assert first_occurrences(drawn).tolist() == [
        [True, True, False, False, True, False],
        [True, False, False, False, False, False],
    ]
