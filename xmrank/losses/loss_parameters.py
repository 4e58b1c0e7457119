"""The parameters of the ranking losses, each declared once. Reading this module imports no torch.

A loss takes its parameters as keyword arguments of these names, and the command line its flags from the same fields:
the text below a field is its help text. `LossParameters` holds one set for every loss that has parameters.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

RankNetWeighting = Literal["none", "diff", "diff_squares"]
LambdaWeighting = Literal["none", "ndcg1", "ndcg2", "lambdarank", "ndcg2pp", "gt_diff", "gt_diff_pow"]
BatchReduction = Literal["mean", "sum"]
LogBase = Literal[2, "e"]
PositiveRule = Literal["each", "mass"]


@dataclass(frozen=True)
class RankNetParameters:
    """Parameters of `ranknet`."""

    weighting: RankNetWeighting = "none"
    """Weight of a pair with labels y_i > y_j: none is 1, diff y_i − y_j, diff_squares y_i² − y_j²."""

    def __post_init__(self) -> None:
        check_choice("weighting", self.weighting, get_args(RankNetWeighting))


@dataclass(frozen=True)
class LambdaRankParameters:
    """Parameters of `lambdarank`."""

    k: int | None = None
    """How many positions of the predicted order count; None: all."""
    sigma: float = 1.0
    """Steepness of the sigmoid."""
    reduction: BatchReduction = "sum"
    """Value of a batch: the sum over its pairs, or the mean over them."""
    log_base: LogBase = 2
    """Base of the logarithm: 2, or e for the natural one."""
    eps: float = 1e-10
    """Smallest value of maxDCG@k, which the gains are divided by."""

    def __post_init__(self) -> None:
        check_k(self.k)
        check_positive("sigma", self.sigma)
        check_choice("reduction", self.reduction, get_args(BatchReduction))
        check_choice("log_base", self.log_base, get_args(LogBase))
        check_not_negative("eps", self.eps)


@dataclass(frozen=True)
class LambdaLossParameters(LambdaRankParameters):
    """Parameters of `lambda_loss`."""

    weighting: LambdaWeighting = "lambdarank"
    """Weight of a pair, as the documentation of the loss defines it under this name."""
    mu: float = 10.0
    """Factor of the ndcg2 weights in the weighting ndcg2pp."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("weighting", self.weighting, get_args(LambdaWeighting))
        check_not_negative("mu", self.mu)


@dataclass(frozen=True)
class ListNetBinaryParameters:
    """Parameters of `listnet_binary`."""

    eps: float = 1e-10
    """Added to each predicted probability."""

    def __post_init__(self) -> None:
        check_not_negative("eps", self.eps)


@dataclass(frozen=True)
class ListNetParameters(ListNetBinaryParameters):
    """Parameters of `listnet`."""

    label_scale: float = 1.0
    """What labels are multiplied by before their softmax: a label that is higher by 1 gets e to this power times the
    part of the target. 1: ListNet as published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("label_scale", self.label_scale)


@dataclass(frozen=True)
class ListMleParameters:
    """Parameters of `listmle`."""

    eps: float = 1e-10
    """Added to each sum of exponentials."""

    def __post_init__(self) -> None:
        check_not_negative("eps", self.eps)


@dataclass(frozen=True)
class SoftmaxParameters:
    """Parameters of `softmax`."""

    multi_positive: PositiveRule = "each"
    """Lists with several relevant items: each of them should win, or (mass) all of them together."""

    def __post_init__(self) -> None:
        check_choice("multi_positive", self.multi_positive, get_args(PositiveRule))


@dataclass(frozen=True)
class ApproxNdcgParameters:
    """Parameters of `approx_ndcg`."""

    alpha: float = 1.0
    """Steepness of the sigmoid: the larger, the closer to the true rank."""
    eps: float = 1e-10
    """Smallest value of each sigmoid and of maxDCG."""

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)
        check_not_negative("eps", self.eps)


@dataclass(frozen=True)
class SmoothNdcgParameters:
    """Parameters of `smooth_ndcg`."""

    temperature: float = 0.01
    """What score differences are divided by: the smaller, the closer to the true rank."""

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)


@dataclass(frozen=True)
class NeuralNdcgParameters:
    """Parameters of `neural_ndcg`."""

    temperature: float = 1.0
    """Temperature of NeuralSort: the smaller, the closer to a permutation."""
    k: int | None = None
    """How many positions count; None: all."""
    powered_gains: bool = True
    """Gain of an item with label y: 2^y − 1; otherwise y."""
    transposed: bool = False
    """Move the discounts to the items instead of the gains to the positions; the value is the same."""
    stochastic_samples: int = 0
    """Number of perturbed score lists to average over; 0: the scores as they are."""
    noise_scale: float = 0.1
    """What the Gumbel noise of the perturbed scores is multiplied by."""
    log_scores: bool = True
    """Perturb the logarithm of the scores, made positive by adding |smallest score|."""
    max_iterations: int = 50
    """Largest number of Sinkhorn iterations; each divides the columns, then the rows, by their sums."""
    tolerance: float = 1e-6
    """Sinkhorn stops when all column sums are closer than this to 1."""

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_k(self.k)
        for name in ("stochastic_samples", "noise_scale", "max_iterations", "tolerance"):
            check_not_negative(name, getattr(self, name))


@dataclass(frozen=True)
class RmseParameters:
    """Parameters of `rmse`."""

    levels: float = 1.0
    """What scores are multiplied by, so that an output from 0 to 1 covers labels from 0 to this."""

    def __post_init__(self) -> None:
        check_positive("levels", self.levels)


@dataclass(frozen=True)
class TripletParameters:
    """Parameters of `triplet`."""

    margin: float = 0.2
    """How far a relevant item should be above the items with lower labels."""
    hardest: bool = True
    """Count only the highest-scored item of those with lower labels; otherwise all of them."""


@dataclass(frozen=True)
class LossParameters:
    """The parameters of all losses that have some; a field has the name of its loss."""

    ranknet: RankNetParameters = field(default_factory=RankNetParameters)
    """Pairwise logistic loss."""
    lambda_loss: LambdaLossParameters = field(default_factory=LambdaLossParameters)
    """Metric-driven pairwise losses of the LambdaLoss framework."""
    lambdarank: LambdaRankParameters = field(default_factory=LambdaRankParameters)
    """LambdaRank."""
    listnet: ListNetParameters = field(default_factory=ListNetParameters)
    """Cross-entropy of the softmaxes of labels and scores."""
    listnet_binary: ListNetBinaryParameters = field(default_factory=ListNetBinaryParameters)
    """ListNet for binary relevance."""
    listmle: ListMleParameters = field(default_factory=ListMleParameters)
    """Likelihood of the order of the labels."""
    approx_ndcg: ApproxNdcgParameters = field(default_factory=ApproxNdcgParameters)
    """NDCG with approximated positions."""
    neural_ndcg: NeuralNdcgParameters = field(default_factory=NeuralNdcgParameters)
    """NDCG on a differentiable permutation."""
    smooth_ndcg: SmoothNdcgParameters = field(default_factory=SmoothNdcgParameters)
    """Smooth NDCG on graded relevance."""
    softmax: SoftmaxParameters = field(default_factory=SoftmaxParameters)
    """Softmax cross-entropy."""
    rmse: RmseParameters = field(default_factory=RmseParameters)
    """Root of the mean squared error of a list."""
    triplet: TripletParameters = field(default_factory=TripletParameters)
    """Triplet hinge."""


def check_k(k: int | None) -> None:
    """Refuse a cut-off that keeps nothing."""
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1 or None, not {k}")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse a value that is none of the choices; the message names them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def check_positive(name: str, value: float) -> None:
    """Refuse 0, negative numbers and NaN."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value}")


def check_not_negative(name: str, value: float) -> None:
    """Refuse negative numbers and NaN."""
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, not {value}")
