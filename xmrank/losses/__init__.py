"""Ranking losses: pure functions of scores, labels and a mask.

Every loss is called as `loss(scores, labels, mask=None, **params)` on lists [lists, items] and returns a scalar;
`loss.terms(...)`, with the same arguments, returns the `Terms` of each list. A new loss is a function that returns
`Terms`, decorated with `loss`, and a line of `LOSSES`.
"""

from typing import Any

from xmrank.losses.approx import approx_ndcg, smooth_ndcg
from xmrank.losses.lambda_family import lambda_loss, lambdarank
from xmrank.losses.listwise import listmle, listnet, listnet_binary, softmax
from xmrank.losses.loss_sum import Loss, LossSum, loss
from xmrank.losses.neural import neural_ndcg
from xmrank.losses.pairwise import ranknet, triplet
from xmrank.losses.pointwise import bce, ordinal, rmse

LOSSES: dict[str, Loss[Any]] = {
    "ranknet": ranknet,
    "lambda_loss": lambda_loss,
    "lambdarank": lambdarank,
    "listnet": listnet,
    "listnet_binary": listnet_binary,
    "listmle": listmle,
    "approx_ndcg": approx_ndcg,
    "neural_ndcg": neural_ndcg,
    "smooth_ndcg": smooth_ndcg,
    "softmax": softmax,
    "bce": bce,
    "rmse": rmse,
    "ordinal": ordinal,
    "triplet": triplet,
}

__all__ = [
    "LOSSES",
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
