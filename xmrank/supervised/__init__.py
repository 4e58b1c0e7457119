"""Supervised cross-modal retrieval: labelled sets, LCM and its peers, and the two-stage nearest-neighbour search."""
