"""Labels at the ends of lines."""

from xmrank.pages.charts import spread_heights


def test_labels_that_would_overlap_are_spread_around_their_middle():
    assert spread_heights([1.0, 5.0], 2.0) == [1.0, 5.0]
    assert spread_heights([1.0, 2.0, 9.0], 2.0) == [1.5 - 1.0, 1.5 + 1.0, 9.0]
    # The third joins the group that the first two make: the middle of 0, 1 and 2.
    assert spread_heights([0.0, 1.0, 2.0], 2.0) == [1.0 - 2.0, 1.0, 1.0 + 2.0]
