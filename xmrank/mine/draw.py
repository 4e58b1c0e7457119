"""Random draws without replacement, many rows at once."""

import numpy as np

DENSE_FACTOR = 4
"""Pools up to this many times the draw are permuted whole; in larger ones repeated draws are rare and redrawn."""


def draw_distinct(generator: np.random.Generator, available: np.ndarray, count: int) -> np.ndarray:
    """For every row, ``count`` different numbers below its ``available``, uniform over all such draws.

    Args:
        generator: source of randomness.
        available: int64 [rows], each at least ``count``.
        count: how many numbers a row gets.

    Returns:
        int64 [rows, count], in the order drawn.
    """
    if not len(available):
        return np.empty((0, count), np.int64)
    # The smallest pool decides for all rows, so that they draw from the generator in one way.
    if available.min() < DENSE_FACTOR * count:
        return draw_dense(generator, available, count)
    # A few more than needed: about count² / (2 · available) of them are repeats.
    width = count + 8 + count * count // int(available.min())
    drawn = draw_numbers(generator, available, width)
    is_new = first_occurrences(drawn)
    # Few rows draw so many repeats that they run short: they draw again, into columns of their own.
    while (short := is_new.sum(1) < count).any():
        drawn = np.pad(drawn, ((0, 0), (0, width)))
        drawn[short, -width:] = draw_numbers(generator, available[short], width)
        is_new = np.pad(is_new, ((0, 0), (0, width)))
        is_new[short] = first_occurrences(drawn[short])
    # Stable: the new numbers come first and keep the order in which they were drawn.
    order = np.argsort(~is_new, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(drawn, order, 1)


def draw_dense(generator: np.random.Generator, available: np.ndarray, count: int) -> np.ndarray:
    """The same, by sorting one random key for each number: for pools not much larger than the draw."""
    keys = generator.random((len(available), int(available.max())))
    # Keys are below 1, so that numbers beyond a row's own are never drawn.
    keys[np.arange(keys.shape[1]) >= available[:, None]] = 2.0
    return np.argsort(keys, axis=1, kind="stable")[:, :count]


def draw_numbers(generator: np.random.Generator, available: np.ndarray, width: int) -> np.ndarray:
    """int64 [rows, width], each below its row's ``available``, repeats allowed."""
    return (generator.random((len(available), width)) * available[:, None]).astype(np.int64)


def first_occurrences(drawn: np.ndarray) -> np.ndarray:
    """True where a number occurs for the first time in its row; bool, of the same shape."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, 1)
    # Sorted and stable: the first of equal numbers is the one that was drawn first.
    new = np.ones_like(ordered, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, 1)
    return first
