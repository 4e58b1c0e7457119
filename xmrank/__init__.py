"""Image–text retrieval with ranking losses: the parts of xmrank for Python callers.

Losses and metrics are functions of arrays. Stores, lists and rankers work in memory, without Ray, MLflow or a job:

>>> import numpy as np, xmrank
>>> generator = np.random.default_rng(0)
>>> image = generator.normal(size=(60, 16))
>>> text = image.repeat(2, axis=0) + generator.normal(size=(120, 16))
>>> store = xmrank.EmbeddingStore.from_arrays(image, text, caption_image=np.arange(60).repeat(2))
>>> lists = xmrank.mine_lists(store, direction="t2i", random_candidates=20, hard_negatives=5)
>>> len(lists), lists.longest
(60, 6)

Names are imported when they are first used, so that importing the package costs nothing: neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmrank import losses, metrics
    from xmrank.embed.store import EmbeddingStore
    from xmrank.evaluate.run_metrics import evaluate_run
    from xmrank.mine.candidate_lists import CandidateLists
    from xmrank.mine.in_memory import mine_lists
    from xmrank.rank.ranker_loading import load_ranker
    from xmrank.rank.reranking import rerank
    from xmrank.train.api import train_ranker

__version__ = "0.1.0"

_MODULES = {
    "EmbeddingStore": "xmrank.embed.store",
    "CandidateLists": "xmrank.mine.candidate_lists",
    "mine_lists": "xmrank.mine.in_memory",
    "train_ranker": "xmrank.train.api",
    "load_ranker": "xmrank.rank.ranker_loading",
    "rerank": "xmrank.rank.reranking",
    "evaluate_run": "xmrank.evaluate.run_metrics",
}
"""Public name → the module that defines it."""

__all__ = [
    "CandidateLists",
    "EmbeddingStore",
    "__version__",
    "evaluate_run",
    "load_ranker",
    "losses",
    "metrics",
    "mine_lists",
    "rerank",
    "train_ranker",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in ("losses", "metrics"):
        return import_module(f"xmrank.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion in a notebook."""
    return sorted(__all__)
