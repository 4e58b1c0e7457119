"""Training of rankers."""
