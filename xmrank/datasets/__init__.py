"""Readers: any input format becomes two tables, images and captions."""
