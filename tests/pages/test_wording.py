"""Number formats and words."""

import math

from xmrank.pages.wording import count_noun, describe_value, format_percent, format_points, join_words


def test_percent_and_points():
    assert (format_percent(0.41234), format_percent(0.41234, 2), format_percent(1), format_percent(math.nan)) == (
        "41.2",
        "41.23",
        "100.0",
        "–",
    )
    assert (format_points(0.0123), format_points(-0.0123), format_points(0.0004), format_points(-0.0004)) == (
        "+1.2",
        "−1.2",
        "0.0",
        "0.0",
    )


def test_words():
    assert (join_words(["a"]), join_words(["a", "b"]), join_words(["a", "b", "c"])) == ("a", "a and b", "a, b and c")
    assert (count_noun(1, "query"), count_noun(1200, "query"), count_noun(4, "loss")) == (
        "1 query",
        "1,200 queries",
        "4 losses",
    )
    assert describe_value({"i2t": 51, "all": True, "none": None}) == "i2t 51, all yes, none none"
