"""Finished stages on Hugging Face's hub: what is published of them, their cards, push and pull."""
