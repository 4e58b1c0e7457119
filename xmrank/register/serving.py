"""A trained ranker as a function of named arrays: MLflow calls models that way."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from xmrank.train.checkpoint import read_ranker

LOADER = f"{__name__}:load_scoring_function"
"""Kept with a registered model, which MLflow loads by it: as module:function."""


def input_shapes(dimensions: int) -> dict[str, tuple[int, ...]]:
    """The shape of each input by its name; -1 where any length is allowed."""
    return {"query": (-1, dimensions), "candidates": (-1, -1, dimensions), "similarity": (-1, -1)}


def example_inputs(dimensions: int) -> dict[str, np.ndarray]:
    """One query with two candidates, float32: the query itself, and a vector at a right angle to it."""
    axes = np.eye(2, dimensions, dtype=np.float32)
    return {"query": axes[:1], "candidates": axes[None], "similarity": np.array([[1, 0]], np.float32)}


def load_scoring_function(directory: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """The scoring function of the ranker in a folder.

    Returns:
        A function of arrays by name, query [lists, d], candidates [lists, items, d] and similarity [lists, items],
        that gives scores, float32 [lists, items], higher is better.

    Raises:
        DataError: no ranker there, or weights that do not fit its parameters.
    """
    ranker, about = read_ranker(directory)
    # In the order of the ranker's arguments.
    names = list(input_shapes(about["dimensions"]))

    @torch.inference_mode()
    def scores(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        # MLflow may pass arrays that torch cannot write to: copies are safe.
        query, candidates, similarity = (torch.from_numpy(np.array(arrays[name], np.float32)) for name in names)
        result: np.ndarray = ranker.score(query, candidates, similarity).float().numpy()
        return result

    return scores
