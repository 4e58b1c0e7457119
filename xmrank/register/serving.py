"""A trained ranker as a function of named arrays, which is how MLflow calls a model."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from xmrank.train.checkpoint import load_ranker

LOADER = f"{__name__}:load"


def shapes(dimensions: int) -> dict[str, tuple[int, ...]]:
    """Name → shape of the inputs; -1 where any length is allowed."""
    return {"query": (-1, dimensions), "candidates": (-1, -1, dimensions), "similarity": (-1, -1)}


def example(dimensions: int) -> dict[str, np.ndarray]:
    """One query with two candidates, float32: the query itself, and what is at a right angle to it."""
    axes = np.eye(2, dimensions, dtype=np.float32)
    return {"query": axes[:1], "candidates": axes[None], "similarity": np.array([[1, 0]], np.float32)}


def load(directory: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """The scoring function of the ranker in a folder.

    Returns:
        A function of arrays by name, query [lists, d], candidates [lists, items, d] and similarity [lists, items],
        that gives scores, float32 [lists, items], higher is better.

    Raises:
        DataError: no ranker there, or weights that do not fit its parameters.
    """
    ranker, about = load_ranker(directory)
    names = list(shapes(about["dimensions"]))

    @torch.inference_mode()
    def scores(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        query, candidates, similarity = (torch.from_numpy(np.array(arrays[name], np.float32)) for name in names)
        result: np.ndarray = ranker.score(query, candidates, similarity).float().numpy()
        return result

    return scores
