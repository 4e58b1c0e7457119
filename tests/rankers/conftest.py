"""Small lists that the ranker tests share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

Lists = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def lists() -> Lists:
    """Query [3, 6], candidates [3, 5, 6], similarity [3, 5], float64, unit length, no ties."""
    return draw_lists(count=3, items=5)


@pytest.fixture
def make_lists() -> Callable[..., Lists]:
    """Draws lists of a size of one's own."""
    return draw_lists


def draw_lists(count: int, items: int, dimensions: int = 6) -> Lists:
    generator = torch.Generator().manual_seed(7)
    query = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    candidates = torch.randn(count, items, dimensions, generator=generator, dtype=torch.float64)
    query, candidates = F.normalize(query, dim=-1), F.normalize(candidates, dim=-1)
    return query, candidates, (query[:, None] * candidates).sum(-1)
