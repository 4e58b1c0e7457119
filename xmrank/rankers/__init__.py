"""Rankers: torch modules that score the candidates of a list.

`build_ranker` makes one from its parameters; `Ranker.forward` says how it is called. A new ranker is one file that
subclasses `Ranker`, its parameters in `xmrank.rankers.parameters`, and one line in `RANKERS`.

Importing this package imports no torch: what needs it is imported at first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from xmrank.rankers.parameters import (
    AnyRankerParameters,
    ContextAwareParameters,
    CrossAttentionParameters,
    LateInteractionParameters,
    LinearParameters,
    PointwiseParameters,
    RankerParameters,
    RefinementParameters,
    RefinementSizes,
    TokenSizes,
)

if TYPE_CHECKING:
    from xmrank.rankers.list_tokens import ListTokens, SideTokens
    from xmrank.rankers.ranker import Ranker
    from xmrank.rankers.registry import RANKERS, build_ranker, make_parameters, rebuild_ranker

__all__ = [
    "RANKERS",
    "AnyRankerParameters",
    "ContextAwareParameters",
    "CrossAttentionParameters",
    "LateInteractionParameters",
    "LinearParameters",
    "ListTokens",
    "PointwiseParameters",
    "Ranker",
    "RankerParameters",
    "RefinementParameters",
    "RefinementSizes",
    "SideTokens",
    "TokenSizes",
    "build_ranker",
    "make_parameters",
    "rebuild_ranker",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("xmrank.rankers.registry"), name)
