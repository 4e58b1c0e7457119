"""What a loss is made of: one term and one weight a list, so that batches can be joined after the fact."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Literal, ParamSpec, Protocol, cast

from torch import Tensor

P = ParamSpec("P")
P_contra = ParamSpec("P_contra")

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class LossSum:
    """The parts of a loss, list by list.

    The value of any set of lists, whichever batches, ranks or models they came from, is sum(total) / sum(weight), or
    sum(total) where `reduction` is "sum".

    Attributes:
        total: what each list adds to the numerator, [lists]; 0, with a gradient, for a list that does not count.
        weight: what each list adds to the denominator, [lists], without a gradient: 1 for a list that counts, or its
            number of pairs for a mean over pairs. 0 otherwise.
        reduction: "sum" when the value of a batch is the plain sum, and `weight` is only informative.
    """

    total: Tensor
    weight: Tensor
    reduction: Reduction = "mean"

    def value(self) -> Tensor:
        """The loss of these lists: a scalar, 0 with a gradient where no list counts."""
        if self.reduction == "sum":
            return self.total.sum()
        return self.total.sum() / self.weight.sum().clamp(min=1)  # weights are whole numbers: below 1 is none at all


class Loss(Protocol[P_contra]):
    """A loss as the registry holds it: called, it gives the scalar; `terms`, called alike, gives the parts."""

    __name__: str
    terms: Callable[P_contra, LossSum]

    def __call__(self, *args: P_contra.args, **kwargs: P_contra.kwargs) -> Tensor: ...


def loss(terms: Callable[P, LossSum]) -> Loss[P]:
    """Makes a function that returns `Terms` into one that returns their value, and keeps the former as `.terms`."""

    @wraps(terms)
    def value(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        return terms(*args, **kwargs).value()

    value.__signature__ = inspect.signature(terms).replace(return_annotation=Tensor)  # type: ignore[attr-defined]
    value.terms = terms  # type: ignore[attr-defined]
    return cast("Loss[P]", value)
