"""Parameters of the rankers, each declared here and nowhere else.

The command line takes its flags from these dataclasses (``--ranker context_aware --ranker.width 64``), the help texts
from their docstrings, and a checkpoint keeps their values as JSON. This module imports no torch.

What follows from the data is no parameter: the length of an embedding and the sizes of the refinement's buffers are
arguments of `xmrank.rankers.build_ranker`.
"""

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

Feature = Literal["concat", "product", "difference", "cosine"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
"""Item features, in the order of their columns in the weight of the first layer."""
Activation = Literal["relu", "gelu", "silu", "tanh"]
OutputActivation = Literal["sigmoid", "tanh"]
Positional = Literal["fixed", "learned"]
LayerNorm = Literal["standard", "unbiased"]


@dataclass(frozen=True, kw_only=True)
class RankerParameters:
    """Parameters that all rankers share; each ranker adds its own in a subclass.

    With the defaults, training starts from the first-stage ranking.

    Raises:
        ValueError: one line that begins with a parameter and its value, and says what was expected.
    """

    name: ClassVar[str]
    """Name of the ranker, a key of `xmrank.rankers.RANKERS`."""
    reads_tokens: ClassVar[bool] = False
    """Whether the ranker reads the tokens of queries and candidates beside their embeddings."""

    features: tuple[Feature, ...] = ("product", "cosine")
    """Features of a query and a candidate: concat (both embeddings, as in the paper), product, difference (absolute),
    cosine (the first-stage similarity, raw and standardised within its list); one or more."""
    input_norm: bool = False
    """Layer-normalise the embedding features of an item before the first layer."""
    input_dropout: float = 0.3
    """Dropout probability of the embedding features."""
    output_activation: OutputActivation | None = None
    """Activation of the output: sigmoid or tanh. The residual is added after it."""
    levels: int = 1
    """Outputs per item, one for each threshold of an ordinal scale; only the loss ordinal uses more than one."""
    residual: float | None = 15.0
    """Initial weight of the first-stage similarity, which is added to the score; None: not added, as in the paper."""
    residual_learnable: bool = True
    """Train the weight of the residual."""
    zero_init_output: bool = True
    """Initialise the output layer with zeros. With a residual, training starts from the first-stage ranking."""

    def __post_init__(self) -> None:
        # The dataclass is frozen; JSON gives lists back, and the order of the names must not matter.
        object.__setattr__(self, "features", _sort_distinct("features", self.features, FEATURES))
        require_count("levels", self.levels)
        for name in ("input_norm", "residual_learnable", "zero_init_output"):
            _require_flag(name, getattr(self, name))
        require_rate("input_dropout", self.input_dropout)
        require_choice("output_activation", self.output_activation, (None, *get_args(OutputActivation)))
        if self.residual is not None and not (_is_number(self.residual) and math.isfinite(self.residual)):
            raise ValueError(f"residual {self.residual!r}: expected a finite number or None")
        # The cosine is not normalised, so there would be nothing to do.
        if self.input_norm and self.features == ("cosine",):
            raise ValueError("input_norm True: expected embedding features to normalise; features has only cosine")

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Output sizes of the linear layers that come first; the first of them reads the item features."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ContextAwareParameters(RankerParameters):
    """A transformer encoder over the items of a list: the paper's ranker, with other defaults."""

    name: ClassVar[str] = "context_aware"
    least_layers: ClassVar[int] = 1

    width: int = 64
    """Size of an item's vector in the encoder; a multiple of heads."""
    hidden: tuple[int, ...] = ()
    """Sizes of additional linear layers before the encoder."""
    activation: Activation | None = None
    """Activation after each linear layer before the encoder: relu, gelu, silu or tanh."""
    layers: int = 2
    """Number of encoder layers."""
    heads: int = 4
    """Number of attention heads."""
    feed_forward: int = 128
    """Hidden size of the encoder's feed-forward blocks."""
    dropout: float = 0.3
    """Dropout probability in the linear layers and in the encoder."""
    positional: Positional | None = None
    """Encoding of an item's rank in the first stage: fixed (sinusoids) or learned."""
    max_rank: int = 256
    """Ranks that have an encoding of their own; all later ranks share one."""
    layer_norm: LayerNorm = "standard"
    """Layer normalisation: standard, or unbiased (the variant of allRank: unbiased deviation plus epsilon)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", as_sizes("hidden", self.hidden))
        for name in ("width", "heads", "feed_forward", "max_rank"):
            require_count(name, getattr(self, name))
        require_count("layers", self.layers, self.least_layers)
        require_choice("activation", self.activation, (None, *get_args(Activation)))
        require_choice("positional", self.positional, (None, *get_args(Positional)))
        require_choice("layer_norm", self.layer_norm, get_args(LayerNorm))
        require_rate("dropout", self.dropout)
        # The heads share the width in equal parts.
        if self.width % self.heads:
            raise ValueError(f"width {self.width}: expected a multiple of heads {self.heads}")

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """The layers before the encoder."""
        return (*self.hidden, self.width)


@dataclass(frozen=True, kw_only=True)
class PointwiseParameters(RankerParameters):
    """A multi-layer perceptron that scores each item by itself."""

    name: ClassVar[str] = "pointwise"

    hidden: tuple[int, ...] = (128, 64)
    """Sizes of the hidden layers, one or more."""
    activation: Activation | None = "relu"
    """Activation after each hidden layer: relu, gelu, silu or tanh."""
    dropout: float = 0.3
    """Dropout probability after each hidden layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", as_sizes("hidden", self.hidden))
        if not self.hidden:
            raise ValueError("hidden (): expected at least one layer size; the linear ranker has no hidden layer")
        require_choice("activation", self.activation, (None, *get_args(Activation)))
        require_rate("dropout", self.dropout)

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """The hidden layers."""
        return self.hidden


@dataclass(frozen=True, kw_only=True)
class TokenParameters(ContextAwareParameters):
    """Parameters of the rankers that compare words with image regions; the list transformer reads the result."""

    reads_tokens: ClassVar[bool] = True
    least_layers: ClassVar[int] = 0

    features: tuple[Feature, ...] = ("cosine",)
    """Features of a query and a candidate beside their tokens: concat (both embeddings, as in the paper), product,
    difference (absolute), cosine (the first-stage similarity, raw and standardised within its list); one or more."""
    residual: float | None = 20.0
    """Initial weight of the first-stage similarity, which is added to the score; None: not added."""
    zero_init_output: bool = True
    """Initialise the output layer and the scale of the interaction score with zeros. With a residual, training starts
    from the first-stage ranking."""
    layers: int = 1
    """Number of encoder layers over the list; 0: each candidate is scored by itself."""
    token_width: int = 64
    """Size of a projected token; a multiple of token_heads."""
    token_heads: int = 4
    """Attention heads of the token encoders."""
    text_token_layers: int = 1
    """Encoder layers over the words of a text."""
    image_token_layers: int = 0
    """Encoder layers over the regions of an image."""
    token_convolutions: int = 0
    """Residual 3 × 3 convolutions over the regions of an image, which must be a square grid; 0: none."""
    image_positions: bool = True
    """Learn a vector for each region's position; false where regions have no order, as those of a detector."""
    token_dropout: float = 0.1
    """Dropout probability in the token encoders."""
    token_gain: float = 50.0
    """Factor of the interaction score's learned scale, which moves by about a learning rate a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("token_width", "token_heads"):
            require_count(name, getattr(self, name))
        for name in ("text_token_layers", "image_token_layers", "token_convolutions"):
            require_count(name, getattr(self, name), 0)
        require_rate("token_dropout", self.token_dropout)
        require_weight("token_gain", self.token_gain)
        _require_flag("image_positions", self.image_positions)
        if self.token_convolutions and not self.image_positions:
            raise ValueError(
                f"token_convolutions {self.token_convolutions}: expected 0 with image_positions false, since only "
                "regions with an order are a grid"
            )
        if self.token_width % self.token_heads:
            raise ValueError(f"token_width {self.token_width}: expected a multiple of token_heads {self.token_heads}")


@dataclass(frozen=True, kw_only=True)
class LateInteractionParameters(TokenParameters):
    """Each word is compared with the region most similar to it (MaxSim), under a transformer over the list."""

    name: ClassVar[str] = "late_interaction"


@dataclass(frozen=True, kw_only=True)
class CrossAttentionParameters(TokenParameters):
    """The words of a text attend to the regions of an image, under a transformer over the list."""

    name: ClassVar[str] = "cross_attention"

    cross_layers: int = 1
    """Layers in which words attend to regions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("cross_layers", self.cross_layers)


@dataclass(frozen=True, kw_only=True)
class LinearParameters(RankerParameters):
    """One linear layer on the item features."""

    name: ClassVar[str] = "linear"

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """The only layer, which is the output layer."""
        return (self.levels,)


AnyRankerParameters = (
    ContextAwareParameters
    | PointwiseParameters
    | LateInteractionParameters
    | CrossAttentionParameters
    | LinearParameters
)
"""The type of a setting that chooses a ranker; a new ranker adds its parameters here."""


@dataclass(frozen=True)
class RefinementParameters:
    """The refined similarity inside a ranker: adapters on both embeddings, hubness correction, key–value memory."""

    members: int = 0
    """Ensemble members, pairs of adapters whose similarities are averaged; 0: the first-stage similarity is used."""
    width: int = 256
    """Hidden size of an adapter, x + B·gelu(A·x)."""
    neighbours: int = 10
    """Hubness of a candidate: the mean cosine with its nearest training queries, this many."""
    hubness_weight: float = 0.5
    """Weight of the hubness, which is subtracted from the similarity; 0: no correction."""
    memory_weight: float = 0.0
    """Weight of the key–value memory, where the images of similar training captions represent a caption; 0: none."""
    memory_neighbours: int = 150
    """Most similar training captions that represent a caption in the memory."""
    memory_scale: float = 10.0
    """Factor of the cosines in the softmax over these captions."""

    def __post_init__(self) -> None:
        require_count("members", self.members, 0)
        for name in ("width", "neighbours", "memory_neighbours"):
            require_count(name, getattr(self, name))
        for name in ("hubness_weight", "memory_weight", "memory_scale"):
            require_weight(name, getattr(self, name))


@dataclass(frozen=True)
class RefinementSizes:
    """Sizes of a refinement's buffers, which follow from the training data.

    Attributes:
        bank: training queries against which hubness is measured, for each member.
        memory_pairs: captions in the memory, each with its image; 0: no memory.
        memory_images: images in the memory.
        text: the side of a list that captions are on, query or candidate.
    """

    bank: int = 0
    memory_pairs: int = 0
    memory_images: int = 0
    text: Literal["query", "candidate"] = "query"

    def __post_init__(self) -> None:
        for name in ("bank", "memory_pairs", "memory_images"):
            require_count(name, getattr(self, name), 0)
        require_choice("text", self.text, ("query", "candidate"))


@dataclass(frozen=True)
class TokenSizes:
    """Sizes of a token ranker that follow from the data.

    Attributes:
        text: the side of a list that texts are on, query or candidate.
        text_width, image_width: numbers in a token.
        text_longest, image_longest: the most tokens of an item.
        image_grid: rows, and columns, of the square grid that the regions of every image are; 0: they are none.
    """

    text: Literal["query", "candidate"] = "query"
    text_width: int = 1
    text_longest: int = 1
    image_width: int = 1
    image_longest: int = 1
    image_grid: int = 0

    def __post_init__(self) -> None:
        for name in ("text_width", "text_longest", "image_width", "image_longest"):
            require_count(name, getattr(self, name))
        require_count("image_grid", self.image_grid, 0)
        require_choice("text", self.text, ("query", "candidate"))


def as_json(parameters: Any) -> dict[str, Any]:
    """All fields of a dataclass, defaults included, as values that JSON keeps: lists instead of tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(parameters).items()}


def require_count(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless the value is an integer of at least `least`."""
    # bool is a subclass of int.
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} {value!r}: expected an integer of at least {least}")


def require_weight(name: str, value: object) -> None:
    """Raise ValueError unless the value is a finite number of at least 0."""
    if not (_is_number(value) and 0 <= value < math.inf):  # type: ignore[operator]
        raise ValueError(f"{name} {value!r}: expected a finite number of at least 0")


def require_rate(name: str, value: object) -> None:
    """Raise ValueError unless the value is a dropout probability."""
    if not (_is_number(value) and 0 <= value < 1):  # type: ignore[operator]
        raise ValueError(f"{name} {value!r}: expected at least 0 and below 1")


def require_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} {value!r}: expected one of {', '.join(map(str, choices))}")


def as_sizes(name: str, value: Any) -> tuple[int, ...]:
    """Layer sizes as a tuple (JSON gives a list back); ValueError unless all are positive integers."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} {value!r}: expected a list of layer sizes")
    for size in value:
        require_count(name, size)
    return tuple(value)


def _sort_distinct(name: str, value: Any, choices: tuple[str, ...]) -> tuple[str, ...]:
    """The chosen names in the order of the choices, so that two spellings of a choice make the same model."""
    # A text is a sequence of letters, so it is refused by its type.
    valid = isinstance(value, list | tuple) and len(value) > 0 and all(chosen in choices for chosen in value)
    if not valid or len(set(value)) < len(value):
        raise ValueError(f"{name} {value!r}: expected a list of distinct names among {', '.join(choices)}")
    return tuple(choice for choice in choices if choice in value)


def _require_flag(name: str, value: object) -> None:
    """Raise ValueError unless the value is a bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} {value!r}: expected true or false")


def _is_number(value: object) -> bool:
    """Whether the value is an int or a float; bool, a subclass of int, is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
