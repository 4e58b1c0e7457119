"""A trained ranker alone as a function of named arrays, where there is no encoder for captions and images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmrank.rank.trained_rankers import RANKER_FOLDER
from xmrank.rankers import ListTokens, TokenSizes
from xmrank.train.checkpoint import read_ranker

LOADER = f"{__name__}:load_scoring_function"
"""Kept with a registered model, which MLflow loads by it: as module:function."""
ScoringFunction = Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], np.ndarray]


def input_shapes(dimensions: int, tokens: TokenSizes | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of each input by its name; -1 where any length is allowed.

    Args:
        dimensions: of an embedding.
        tokens: sizes of the tokens, for a ranker that reads them; a mask is 1 where a token is real.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "query": (-1, dimensions),
        "candidates": (-1, -1, dimensions),
        "similarity": (-1, -1),
    }
    if tokens is None:
        return shapes
    query, candidate = tokens.text_width, tokens.image_width
    if tokens.text == "candidate":
        query, candidate = candidate, query
    shapes |= {"query_tokens": (-1, -1, query), "candidate_tokens": (-1, -1, -1, candidate)}
    return shapes | {"query_token_mask": (-1, -1), "candidate_token_mask": (-1, -1, -1)}


def example_inputs(dimensions: int, tokens: TokenSizes | None = None) -> dict[str, np.ndarray]:
    """One query with two candidates, float32: the query itself, and a vector at a right angle to it.

    Tokens, if the ranker reads them, are ones, as many as the longest item has.
    """
    axes = np.eye(2, dimensions, dtype=np.float32)
    arrays = {"query": axes[:1], "candidates": axes[None], "similarity": np.array([[1, 0]], np.float32)}
    if tokens is None:
        return arrays
    lengths = {"query": tokens.text_longest, "candidate": tokens.image_longest}
    if tokens.text == "candidate":
        lengths = {"query": tokens.image_longest, "candidate": tokens.text_longest}
    shapes = input_shapes(dimensions, tokens)
    items = {"query": (1, lengths["query"]), "candidate": (1, 2, lengths["candidate"])}
    for side, shape in items.items():
        arrays[f"{side}_tokens"] = np.ones((*shape, shapes[f"{side}_tokens"][-1]), np.float32)
        arrays[f"{side}_token_mask"] = np.ones(shape, np.float32)
    return {name: arrays[name] for name in shapes}


def read_token_sizes(about: Mapping[str, Any]) -> TokenSizes | None:
    """The sizes of the tokens that a ranker's JSON names; None for a ranker that reads none."""
    return TokenSizes(**about["tokens"]) if about.get("tokens") else None


def load_scoring_function(folders: Mapping[str, Path], settings: Mapping[str, Any]) -> ScoringFunction:  # noqa: ARG001
    """The scoring function of a ranker.

    Args:
        folders: the ranker's, as ``ranker``.
        settings: none is used.

    Returns:
        A function of arrays by name, query [lists, d], candidates [lists, items, d] and similarity [lists, items], and
        for a ranker that reads tokens those of ``input_shapes``, that gives scores, float32 [lists, items], higher is
        better. It has no parameters.

    Raises:
        DataError: no ranker there, or weights that do not fit its parameters.
    """
    ranker, about = read_ranker(folders[RANKER_FOLDER])
    # In the order of the ranker's arguments.
    names = list(input_shapes(about["dimensions"], read_token_sizes(about)))

    @torch.inference_mode()
    def scores(arrays: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG001
        # MLflow may pass arrays that torch cannot write to: copies are safe.
        inputs = [torch.from_numpy(np.array(arrays[name], np.float32)) for name in names]
        tokens = None
        if len(inputs) > 3:
            own, theirs, own_mask, their_mask = inputs[3:]
            tokens = ListTokens.of_lists(own, theirs, own_mask > 0, their_mask > 0)
        result: np.ndarray = ranker.score(*inputs[:3], tokens=tokens).float().numpy()
        return result

    return scores
