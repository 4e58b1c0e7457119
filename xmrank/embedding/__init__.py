"""The first stage: images and captions become unit-length embeddings in a store."""

from xmrank.embedding.store import EmbeddingStore

__all__ = ["EmbeddingStore"]
