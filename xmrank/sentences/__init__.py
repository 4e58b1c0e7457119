"""Text embeddings of a sentence-transformers model."""
