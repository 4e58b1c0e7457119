"""Ranking with trained rankers: scores, protocols, results."""
