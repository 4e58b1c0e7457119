"""Candidate lists: for every query, the hard candidates that a ranker orders."""
