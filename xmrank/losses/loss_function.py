"""The decorator that makes a loss: the formula is written once, everything around it is the same for all losses."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields
from functools import cache, wraps
from itertools import pairwise
from typing import Any, Protocol, cast, get_args

from torch import Tensor

from xmrank.losses.list_batch import ListBatch, on_host
from xmrank.losses.loss_parameters import check_choice
from xmrank.losses.loss_sum import LossSum, Reduction

Formula = Callable[..., LossSum]
"""A loss as it is written: a function of a checked batch, its parameters if it has some, and further keywords."""

SHARED_ARGUMENTS = """\
scores: predicted scores, [items] for one list or [lists, items] for a batch, any floating dtype.
labels: relevance, at least 0, [items] or [lists, items].
mask: True where an item is real, bool [items] or [lists, items]; None: all are.
weights: weight of each list in the mean or sum, at least 0, [lists]; None: 1.
reduction: "none": the value of each list alone, times its weight; "sum": the sum of these values; "mean": their \
weighted mean over the lists that count (for a loss that averages pairs: over all pairs of the batch).
"""
SHARED_LEVELS = """\
scores: logits of the levels, [items, levels] for one list or [lists, items, levels] for a batch, any floating dtype.
"""
SHARED_RETURNS = """\
A scalar, or with reduction "none" a value for each list, [lists]; in the scores' dtype (float32 for lower \
precisions). 0, with a gradient, where no list counts.
"""


class Loss(Protocol):
    """A loss as the registry holds it: a function that returns the value, with two attributes."""

    __name__: str
    parameters: type | None
    """The dataclass of its parameters, whose fields are its keyword arguments; None: it has none."""

    def sums(self, scores: Tensor, labels: Tensor, mask: Tensor | None = None, **parameters: Any) -> LossSum:
        """Numerator and denominator of each list, [lists], before any reduction."""

    def __call__(
        self,
        scores: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        reduction: Reduction = ...,
        **parameters: Any,
    ) -> Tensor: ...


def loss(parameters: type | None = None, *, levels: bool = False) -> Callable[[Formula], Loss]:
    """Make a loss of its formula.

    The formula takes a `ListBatch`, an instance of `parameters` (unless that is None) and possibly further keywords,
    and returns a `LossSum`. The loss takes tensors, and the fields of `parameters` as keywords.

    Args:
        parameters: dataclass of the parameters.
        levels: the scores have a last axis of levels.
    """
    # What belongs to the dataclass; other keywords go to the formula as they are.
    names = [] if parameters is None else [field.name for field in fields(parameters)]
    default: Reduction = getattr(parameters, "reduction", "mean")

    def make_loss(formula: Formula) -> Loss:
        def compute_sums(scores: Tensor, labels: Tensor, mask: Tensor | None = None, **given: Any) -> LossSum:
            batch = ListBatch.from_tensors(scores, labels, mask, levels=levels)
            if parameters is None:
                return formula(batch, **given)
            chosen = {name: given.pop(name) for name in names if name in given}
            return formula(batch, parameters(**chosen), **given)

        @wraps(formula, assigned=("__module__", "__name__", "__qualname__"))
        def compute_loss(
            scores: Tensor,
            labels: Tensor,
            mask: Tensor | None = None,
            *,
            weights: Tensor | None = None,
            reduction: Reduction = default,
            **given: Any,
        ) -> Tensor:
            check_choice("reduction", reduction, get_args(Reduction))
            # The reduction is applied here, so the one in the parameters of some losses stays at its default.
            sums = compute_sums(scores, labels, mask, **given)
            if weights is not None:
                weights = _check_weights(weights, labels).to(sums.numerator)
            value = sums.reduce_lists(reduction, weights)
            # One list was made a batch of one: its value has no axis.
            return value.squeeze(0) if labels.dim() == 1 and reduction == "none" else value

        # A function, not an object, so that help(), pickle and editors treat it as one.
        made = cast("Loss", compute_loss)
        made.sums, made.parameters = compute_sums, parameters  # type: ignore[method-assign]
        made.__signature__ = _make_signature(compute_loss, formula, parameters)  # type: ignore[attr-defined]
        made.__doc__ = _make_docstring(formula, parameters, levels)
        return made

    return make_loss


def _check_weights(weights: Tensor, labels: Tensor) -> Tensor:
    """The weights as [lists].

    Raises:
        ValueError: not one weight for each list, or a negative one (looked at on a CPU only).
    """
    if weights.shape != labels.shape[:-1]:
        expected = "one number" if labels.dim() == 1 else f"one for each of {len(labels)} lists"
        raise ValueError(f"weights have shape {tuple(weights.shape)}, expected {expected}")
    if on_host(weights) and bool((weights < 0).any()):
        raise ValueError("weights must be at least 0")
    return weights.reshape(-1)


def _make_signature(
    loss_function: Callable[..., Tensor], formula: Formula, parameters: type | None
) -> inspect.Signature:
    """The shared arguments, then the fields of the parameters, then the formula's own keywords."""
    # All but the last of the function's own arguments, which is the catch-all `given`.
    *shared, _ = inspect.signature(loss_function, follow_wrapped=False).parameters.values()
    own = [p for p in inspect.signature(formula).parameters.values() if p.kind is p.KEYWORD_ONLY]
    declared = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in _fields_to_pass(parameters)
    ]
    return inspect.Signature([*shared, *declared, *own], return_annotation=Tensor)


def _fields_to_pass(parameters: type | None) -> list[Any]:
    """The fields that are keyword arguments of their own; a reduction is the argument that every loss has."""
    if parameters is None:
        return []
    return [field for field in fields(parameters) if field.name != "reduction"]


def _make_docstring(formula: Formula, parameters: type | None, levels: bool) -> str:
    """The formula's docstring with the arguments and the returned value described."""
    # "Source:" closes every formula's docstring; "Args:" before it describes the formula's own keywords.
    text, _, source = (inspect.getdoc(formula) or "").partition("\n\nSource:")
    text, _, own = text.partition("\n\nArgs:\n")
    arguments = SHARED_ARGUMENTS.splitlines()
    if levels:
        arguments[0] = SHARED_LEVELS.strip()
    if parameters is not None:
        texts = _read_field_texts(parameters)
        arguments += [f"{field.name}: {texts.get(field.name, '')}" for field in _fields_to_pass(parameters)]
    lines = [textwrap.fill(line, 116, initial_indent="    ", subsequent_indent=" " * 8) for line in arguments]
    returns = textwrap.fill(SHARED_RETURNS, 116, initial_indent="    ", subsequent_indent="    ")
    described = "\n".join([*lines, own] if own else lines)
    return f"{text}\n\nArgs:\n{described}\n\nReturns:\n{returns}\n\nSource:{source}"


def _read_field_texts(declared: type) -> dict[str, str]:
    """The text below each field of a dataclass, those of its base classes included."""
    texts: dict[str, str] = {}
    for base in reversed(declared.__mro__):
        texts |= _read_module_texts(base.__module__).get(base.__name__, {})
    return texts


@cache
def _read_module_texts(module: str) -> dict[str, dict[str, str]]:
    """The texts below the fields of all classes of a module; empty where its source is not at hand."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return {}
    classes = [statement for statement in tree.body if isinstance(statement, ast.ClassDef)]
    return {statement.name: _read_class_texts(statement) for statement in classes}


def _read_class_texts(tree: ast.ClassDef) -> dict[str, str]:
    texts = {}
    for statement, following in pairwise(tree.body):
        # A text is a string that stands alone, right after the annotated name.
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            texts[statement.target.id] = " ".join(str(following.value.value).split())
    return texts
