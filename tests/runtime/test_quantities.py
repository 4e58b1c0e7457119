"""Numbers as people write them."""

import pytest

from xmrank.runtime.quantities import format_bytes, format_rate, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (41.4, "41 s"),
        (59.6, "1 min"),
        (350, "5 min 50 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (11_220, "3 h 7 min"),
        (86_400 * 2 + 3600 * 3 + 60, "2 d 3 h"),
    ],
)
def test_a_time_has_its_two_largest_units(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (10_850.4, "10,850/s"),
        (126.8, "127/s"),
        (12.53, "12.5/s"),
        (1, "1/s"),
        (0.15, "9/min"),
        (0.9999, "60/min"),
        (0.01, "36/h"),
        (0.0001, "0.36/h"),
    ],
)
def test_a_rate_has_the_unit_of_which_there_is_one(rate, text):
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("count", "text"), [(812, "0.812 kB"), (31_400, "31.4 kB"), (3_140_000, "3.14 MB"), (2.5e12, "2,500.0 GB")]
)
def test_a_size_has_the_unit_of_which_there_is_one(count, text):
    assert format_bytes(count) == text
