"""Evaluation of the first stage and of rankers, query by query."""
