"""What every ranker is built from: plain values that survive a round trip through JSON."""

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

FEATURES = ("concat", "product", "difference", "cosine")
"""Item features, in the order in which their columns stand in the first layer's weight."""
ACTIVATIONS = ("relu", "gelu", "silu", "tanh")
"""What may follow a hidden linear layer."""
OUTPUT_ACTIVATIONS = ("sigmoid", "tanh")
"""What may follow the last linear layer."""


@dataclass(frozen=True, kw_only=True)
class RankerParameters:
    """Parameters that all rankers share; each adds its own in a subclass.

    Raises:
        ValueError: one line that names the parameter and what was expected.
    """

    dimensions: int
    """Length of one embedding; query and candidate have the same."""
    features: tuple[str, ...] = ("concat",)
    """Item features: any of concat ([query ; candidate]), product, difference (absolute), cosine (the first-stage
    similarity, raw and standardised within its list)."""
    input_norm: bool = False
    """Layer norm over the embedding features of an item together, before the first layer; cosine stays as it is."""
    input_dropout: float = 0.0
    """Dropout on the embedding features, each block on its own; on the query once a list, as it is projected."""
    output_activation: str | None = None
    """None, sigmoid or tanh on the output, before the residual is added."""
    levels: int = 1
    """Outputs an item: 1 score, or one a threshold of an ordinal scale."""
    residual: float | None = None
    """Initial weight of the first-stage similarity in the score; None: it is not added."""
    residual_learnable: bool = True
    """Whether that weight is trained."""
    zero_init_output: bool = False
    """Start with an output of 0, hence, with a residual, at the first stage's ranking."""
    refine_members: int = 0
    """Pairs of adapters whose similarity, averaged, stands in for the first stage's; 0: that is taken as it is."""
    refine_width: int = 256
    """Width of an adapter."""
    refine_bank: int = 0
    """Training queries that each member measures the hubness of candidates against."""
    refine_neighbours: int = 10
    """How many of them, the most similar to a candidate, count."""
    refine_hub: float = 0.5
    """Weight of the hubness."""
    refine_recall: float = 0.0
    """Weight of a memory of training pairs beside the members."""
    refine_memory_pairs: int = 0
    """Captions in the memory; 0: there is none."""
    refine_memory_images: int = 0
    """Images in the memory."""
    refine_memory_text: str = "query"
    """Which side of a list captions are: query or candidate."""
    refine_memory_neighbours: int = 150
    """Captions that a caption recalls."""
    refine_memory_scale: float = 10.0
    """What their cosines are multiplied by in the softmax that weighs them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _distinct("features", self.features, FEATURES))
        for name in ("dimensions", "levels"):
            require_count(name, getattr(self, name))
        for name in ("input_norm", "residual_learnable", "zero_init_output"):
            _require_flag(name, getattr(self, name))
        require_rate("input_dropout", self.input_dropout)
        counts = {"members": 0, "width": 1, "bank": 0, "neighbours": 1}
        of_memory = {"memory_pairs": 0, "memory_images": 0, "memory_neighbours": 1}
        for name, least in (counts | of_memory).items():
            require_count(f"refine_{name}", getattr(self, f"refine_{name}"), least)
        for name in ("refine_hub", "refine_recall", "refine_memory_scale"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a finite number of at least 0, not {value!r}")
        require_choice("refine_memory_text", self.refine_memory_text, ("query", "candidate"))
        require_choice("output_activation", self.output_activation, (None, *OUTPUT_ACTIVATIONS))
        if self.residual is not None and not (_is_number(self.residual) and math.isfinite(self.residual)):
            raise ValueError(f"residual must be a finite number or None, not {self.residual!r}")
        if self.input_norm and self.features == ("cosine",):
            raise ValueError("input_norm normalises embedding features; features has none, only cosine")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Outputs of the linear layers that stand in front, the first of which reads the item features."""
        raise NotImplementedError

    def as_json(self) -> dict[str, Any]:
        """All parameters, defaults included, as values that JSON keeps."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def require_count(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless the value is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")


def require_rate(name: str, value: object) -> None:
    """Raise ValueError unless the value is a dropout probability."""
    if not (_is_number(value) and 0 <= value < 1):  # type: ignore[operator]
        raise ValueError(f"{name} must be at least 0 and below 1, not {value!r}")


def require_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}")


def layer_sizes(name: str, value: Any) -> tuple[int, ...]:
    """Layer sizes, which JSON brings back as a list, as a tuple; ValueError unless all are positive integers."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list of layer sizes, not {value!r}")
    for size in value:
        require_count(f"each of {name}", size)
    return tuple(value)


def _distinct(name: str, value: Any, choices: tuple[str, ...]) -> tuple[str, ...]:
    """The chosen names in the order of the choices, so that two spellings of a choice are one model."""
    valid = isinstance(value, list | tuple) and len(value) > 0 and all(chosen in choices for chosen in value)
    if not valid or len(set(value)) < len(value):
        raise ValueError(f"{name} must be a list of distinct names among {', '.join(choices)}, not {value!r}")
    return tuple(choice for choice in choices if choice in value)


def _require_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
