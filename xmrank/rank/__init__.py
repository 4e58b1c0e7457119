"""Re-ranking of new queries with a trained ranker."""
