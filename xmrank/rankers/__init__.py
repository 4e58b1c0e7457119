"""Rankers: torch modules that score the candidates of a list.

`build` makes one by name; `Ranker.forward` says how it is called. A new ranker is one file that subclasses `Ranker`,
and one line in `RANKERS`.
"""

from dataclasses import fields
from typing import Any

from xmrank.rankers.context_aware import ContextAwareRanker
from xmrank.rankers.linear_ranker import LinearRanker
from xmrank.rankers.pointwise_ranker import PointwiseRanker
from xmrank.rankers.ranker import Ranker

__all__ = ["RANKERS", "Ranker", "build"]

RANKERS: dict[str, type[Ranker]] = {
    "context_aware": ContextAwareRanker,
    "pointwise": PointwiseRanker,
    "linear": LinearRanker,
}
"""Rankers by name; `RANKERS[name].parameters_type` is the dataclass of its parameters."""


def build(name: str, *, dimensions: int, **parameters: Any) -> Ranker:
    """Make a ranker, its weights drawn from torch's global generator.

    Args:
        name: a key of `RANKERS`.
        dimensions: length of an embedding.
        parameters: fields of the ranker's `parameters_type`, the shared ones among them.

    Returns:
        The ranker in training mode; `build(ranker.name, **ranker.parameters_)` makes another of the same shape.

    Raises:
        ValueError: one line that names an unknown ranker or parameter, or a bad value, and what was expected.
    """
    if name not in RANKERS:
        raise ValueError(f"unknown ranker {name!r}; expected one of {', '.join(RANKERS)}")
    kind = RANKERS[name]
    known = [field.name for field in fields(kind.parameters_type)]
    unknown = [parameter for parameter in parameters if parameter not in known]
    if unknown:
        raise ValueError(f"ranker {name!r} has no parameter {', '.join(unknown)}; expected: {', '.join(known)}")
    try:
        values = kind.parameters_type(dimensions=dimensions, **parameters)
    except ValueError as error:
        raise ValueError(f"ranker {name!r}: {error}") from None
    return kind(values)
