"""The registry of rankers, and how a ranker is built from parameters or from the JSON of a checkpoint."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from xmrank.rankers.context_aware import ContextAwareRanker
from xmrank.rankers.cross_attention import CrossAttentionRanker
from xmrank.rankers.late_interaction import LateInteractionRanker
from xmrank.rankers.linear_ranker import LinearRanker
from xmrank.rankers.list_tokens import ListTokens, SideTokens
from xmrank.rankers.parameters import (
    RankerParameters,
    RefinementParameters,
    RefinementSizes,
    TokenParameters,
    TokenSizes,
)
from xmrank.rankers.pointwise_ranker import PointwiseRanker
from xmrank.rankers.ranker import Ranker
from xmrank.rankers.refinement import Refinement
from xmrank.rankers.token_ranker import TokenRanker

__all__ = [
    "RANKERS",
    "ListTokens",
    "Ranker",
    "SideTokens",
    "build_ranker",
    "make_parameters",
    "rebuild_ranker",
]

RANKERS: dict[str, type[Ranker]] = {
    "context_aware": ContextAwareRanker,
    "pointwise": PointwiseRanker,
    "late_interaction": LateInteractionRanker,
    "cross_attention": CrossAttentionRanker,
    "linear": LinearRanker,
}
"""Rankers by name; `RANKERS[name].parameters_type` is the dataclass of a ranker's parameters."""


def build_ranker(
    parameters: RankerParameters,
    *,
    dimensions: int,
    refinement: RefinementParameters | None = None,
    sizes: RefinementSizes | None = None,
    tokens: TokenSizes | None = None,
) -> Ranker:
    """Make a ranker. Its weights are drawn from torch's global generator: seed that first for a reproducible start.

    Args:
        parameters: of one of the rankers in `RANKERS`; they say which one.
        dimensions: length of an embedding; query and candidate have the same.
        refinement: the refined similarity; None or no members: the ranker uses the similarity that it is given.
        sizes: sizes of the refinement's buffers; None: no bank of queries and no memory.
        tokens: sizes of the tokens; needed by a ranker that reads tokens, and of no effect on others.

    Returns:
        The ranker in training mode. A refinement in it is still empty: it is learned separately, or loaded.

    Raises:
        ValueError: parameters of no known ranker, a bad size, or no sizes of tokens where they are needed.
    """
    if parameters.name not in RANKERS:
        raise ValueError(f"ranker {parameters.name}: expected one of {', '.join(RANKERS)}")
    if dimensions < 1:
        raise ValueError(f"dimensions {dimensions}: expected an integer of at least 1")
    # Made first; it draws no random numbers, so the initial weights do not depend on it.
    module = None
    if refinement is not None and refinement.members:
        module = Refinement(dimensions, refinement, sizes or RefinementSizes())
    kind = RANKERS[parameters.name]
    if not issubclass(kind, TokenRanker):
        return kind(parameters, dimensions, module)
    assert isinstance(parameters, TokenParameters)
    if tokens is None:
        raise ValueError(f"ranker {parameters.name}: reads tokens; expected their sizes (tokens=TokenSizes(...))")
    return kind(parameters, dimensions, module, tokens)


def rebuild_ranker(description: Mapping[str, Any]) -> Ranker:
    """Make a ranker of the same shape as one that was described.

    Args:
        description: what `Ranker.describe` returned, perhaps read back from JSON; further keys are ignored.

    Raises:
        ValueError: an unknown ranker or parameter, or a bad value; the message names it and what was expected.
        KeyError: the description lacks a part.
    """
    parameters = make_parameters(description["ranker"], **description["parameters"])
    refinement, dimensions = description["refinement"], description["dimensions"]
    tokens = TokenSizes(**description["tokens"]) if parameters.reads_tokens else None
    # Whether the buffers of a refinement exist is part of the shape.
    if refinement is None:
        return build_ranker(parameters, dimensions=dimensions, tokens=tokens)
    return build_ranker(
        parameters,
        dimensions=dimensions,
        refinement=RefinementParameters(**refinement["parameters"]),
        sizes=RefinementSizes(**refinement["sizes"]),
        tokens=tokens,
    )


def make_parameters(name: str, **values: Any) -> RankerParameters:
    """The parameters of a ranker that is known by its name.

    Args:
        name: a key of `RANKERS`.
        values: fields of the ranker's `parameters_type`.

    Raises:
        ValueError: an unknown ranker or parameter, or a bad value; the message names it and what was expected.
    """
    if name not in RANKERS:
        raise ValueError(f"ranker {name}: expected one of {', '.join(RANKERS)}")
    parameters_type = RANKERS[name].parameters_type
    # Checked here, because a dataclass would raise a TypeError that names only one of them.
    known = [field.name for field in fields(parameters_type)]
    unknown = [parameter for parameter in values if parameter not in known]
    if unknown:
        raise ValueError(f"ranker {name} has no parameter {', '.join(unknown)}; expected: {', '.join(known)}")
    return parameters_type(**values)
