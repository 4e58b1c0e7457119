"""Embeddings of images and captions: encoded on the cluster, or imported."""
