"""Names of the methods that are in every evaluation, as they are written in its tables."""

FIRST_STAGE = "cosine"
"""The encoder's own ranking, by the cosine of its embeddings."""
ORACLE = "oracle"
"""The best that any re-ranking of a top N could be: its relevant items first."""
BASELINE = "baseline"
"""In the column of the ranker, for a method that projects embeddings and has no ranker."""
