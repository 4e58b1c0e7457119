"""Candidate lists: for every query, the hard candidates that a ranker orders."""

from xmrank.candidates.lists import Lists
from xmrank.candidates.mapped import open_lists
from xmrank.candidates.mine import images_of, lists_path, mine
from xmrank.candidates.splits import ROLES, Role

__all__ = ["ROLES", "Lists", "Role", "images_of", "lists_path", "mine", "open_lists"]
