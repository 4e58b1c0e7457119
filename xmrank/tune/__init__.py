"""Searches over settings, and the seeds of the best ones."""
