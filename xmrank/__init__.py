"""Cross-modal (image and text) retrieval with ranking losses: embed, mine, train, evaluate, report."""

__version__ = "0.1.0"
