"""Tensors that do not fit are refused with what was expected."""

import pytest
import torch
from ranker_samples import build

from xmrank.rankers import RANKERS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": (3, 7)}, r"query must be \[3, 6\] beside a similarity of \[3, 5\], not \[3, 7\]"),
        ({"query": (2, 6)}, r"query must be \[3, 6\]"),
        ({"candidates": (3, 4, 6)}, r"candidates must be \[3, 5, 6\]"),
        ({"candidates": (15, 6)}, r"candidates must be \[3, 5, 6\]"),
        ({"similarity": (15,)}, r"similarity must be \[lists, items\], not \[15\]"),
        ({"mask": (3, 4)}, r"mask must be bool \[3, 5\]"),
    ],
)
@pytest.mark.parametrize("name", RANKERS)
def test_shapes_that_do_not_fit(name, change, message):
    shapes = {"query": (3, 6), "candidates": (3, 5, 6), "similarity": (3, 5), "mask": (3, 5), **change}
    inputs = {key: torch.zeros(shape, dtype=torch.bool if key == "mask" else None) for key, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        build(name, dimensions=6)(**inputs)


@pytest.mark.parametrize("name", RANKERS)
def test_dtypes_that_do_not_fit(name, lists):
    ranker, (query, candidates, similarity) = build(name, dimensions=6), lists
    with pytest.raises(ValueError, match=r"candidates must be of a floating dtype, not torch\.int64"):
        ranker(query, candidates.long(), similarity)
    with pytest.raises(ValueError, match=r"mask must be bool \[3, 5\], not torch\.float64"):
        ranker(*lists, mask=torch.ones_like(similarity))
    with pytest.raises(ValueError, match=r"gallery must be \[N, 6\], not \[3, 5\]"):
        ranker.project_candidates(similarity)
    with pytest.raises(ValueError, match=r"candidates must be \[3, 5, "):
        ranker(query, candidates[..., :5], similarity, projected=True)
