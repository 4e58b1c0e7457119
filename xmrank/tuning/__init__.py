"""Searches over settings, and the seeds of the best ones."""

from xmrank.tuning.tune import tune

__all__ = ["tune"]
