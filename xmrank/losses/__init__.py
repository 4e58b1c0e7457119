"""Ranking losses: pure functions of scores, labels and a mask.

A loss takes one list or a batch of lists of different lengths and returns a scalar:

>>> import torch
>>> from xmrank.losses import LOSSES, softmax
>>> scores, labels = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
>>> softmax(scores, labels)
tensor(0.4076)
>>> batch = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
>>> relevant = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
>>> real = torch.tensor([[True, True, True], [True, True, False]])
>>> softmax(batch, relevant, real)
tensor(0.8604)

The value of each list, and a mean in which the first list counts three times as much as the second:

>>> softmax(batch, relevant, mask=real, reduction="none")
tensor([0.4076, 1.3133])
>>> softmax(batch, relevant, mask=real, weights=torch.tensor([3.0, 1.0]))
tensor(0.6340)

Parameters are keywords; `LOSSES[name].parameters` is the dataclass that declares them:

>>> LOSSES["lambda_loss"](scores, labels, weighting="ndcg2", k=2)
tensor(0.1668)
>>> LOSSES["triplet"].parameters()
TripletParameters(margin=0.2, hardest=True)

A new loss is a function decorated with `loss`, a line of `LOSS_MODULES` and, if it has parameters, a dataclass and a
field of `LossParameters`. Importing this package imports no torch until a loss is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmrank.losses.approx import approx_ndcg, smooth_ndcg
    from xmrank.losses.lambda_family import lambda_loss, lambdarank
    from xmrank.losses.listwise import listmle, listnet, listnet_binary, softmax
    from xmrank.losses.loss_function import Loss, loss
    from xmrank.losses.loss_sum import LossSum
    from xmrank.losses.neural import neural_ndcg
    from xmrank.losses.pairwise import ranknet, triplet
    from xmrank.losses.pointwise import bce, ordinal, rmse

    LOSSES: dict[str, Loss]

LOSS_MODULES = {
    "ranknet": "pairwise",
    "lambda_loss": "lambda_family",
    "lambdarank": "lambda_family",
    "listnet": "listwise",
    "listnet_binary": "listwise",
    "listmle": "listwise",
    "approx_ndcg": "approx",
    "neural_ndcg": "neural",
    "smooth_ndcg": "approx",
    "softmax": "listwise",
    "bce": "pointwise",
    "rmse": "pointwise",
    "ordinal": "pointwise",
    "triplet": "pairwise",
}
"""The registry: every loss, and the module that defines it."""

_OTHER_MODULES = {"Loss": "loss_function", "loss": "loss_function", "LossSum": "loss_sum"}

__all__ = [
    "LOSSES",
    "LOSS_MODULES",
    "Loss",
    "LossSum",
    "approx_ndcg",
    "bce",
    "lambda_loss",
    "lambdarank",
    "listmle",
    "listnet",
    "listnet_binary",
    "loss",
    "neural_ndcg",
    "ordinal",
    "ranknet",
    "rmse",
    "smooth_ndcg",
    "softmax",
    "triplet",
]


def __getattr__(name: str) -> Any:
    """Import a loss, or with `LOSSES` all of them, when it is first used."""
    modules = LOSS_MODULES | _OTHER_MODULES
    if name == "LOSSES":
        value: Any = {loss_name: _import_loss(loss_name, module) for loss_name, module in LOSS_MODULES.items()}
    elif name in modules:
        value = _import_loss(name, modules[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next use does not come here
    return value


def _import_loss(name: str, module: str) -> Any:
    return getattr(import_module(f"{__name__}.{module}"), name)
