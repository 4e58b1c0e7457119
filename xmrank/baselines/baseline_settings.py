"""The settings of every baseline that has any: plain values; an attribute docstring is the flag's help text."""

from dataclasses import dataclass, fields

UNIT_INTERVAL = ("dropout", "shrinkage")
"""Settings that are at most 1."""


@dataclass(frozen=True)
class BaselineSettings:
    """What the settings of all baselines share: the check of their values.

    Raises:
        ValueError: one line that names the setting and what was expected.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float):
                raise ValueError(f"{field.name} {value}: expected a number of at least 0")
            if isinstance(field.default, int) and not isinstance(value, int):
                raise ValueError(f"{field.name} {value}: expected a whole number of at least 0")
            if value < 0:
                raise ValueError(f"{field.name} {value}: expected at least 0")
            if field.name in UNIT_INTERVAL and value > 1:
                raise ValueError(f"{field.name} {value}: expected at most 1")


@dataclass(frozen=True)
class CosineSettings(BaselineSettings):
    """The encoder itself has no settings."""


@dataclass(frozen=True)
class CcaSettings(BaselineSettings):
    """Settings of CCA."""

    dimensions: int = 128
    """Dimensions of the common space."""


@dataclass(frozen=True)
class RegularisedSettings(BaselineSettings):
    """Settings of regularised CCA."""

    dimensions: int = 128
    """Dimensions of the common space."""
    shrinkage: float = 0.5
    """Shrinkage of each side's covariance towards the identity, from 0 to 1."""


@dataclass(frozen=True)
class KernelSettings(BaselineSettings):
    """Settings of kernel CCA."""

    dimensions: int = 128
    """Dimensions of the common space."""
    pairs: int = 2000
    """Pairs drawn at random to fit on; time grows with the third power, memory with the square."""
    width: float = 1.0
    """The kernel's gamma is this over the mean squared distance of two items."""
    shrinkage: float = 0.1
    """Shrinkage of each side's covariance in the kernel's space towards the identity, from 0 to 1."""


@dataclass(frozen=True)
class HeadSettings(BaselineSettings):
    """Settings of projection heads."""

    dimensions: int = 256
    """Dimensions of the common space."""
    hidden: int = 0
    """Width of a hidden layer in each head; 0: heads are linear."""
    dropout: float = 0.1
    """Share of the features that is dropped in training."""
    epochs: int = 5
    """Epochs; the step size rises and falls once over all of them."""
    batch_size: int = 128
    """Pairs a step."""
    learning_rate: float = 1e-3
    """Highest step size of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    listwise_temperature: float = 0.01
    """Temperature of S-NDCG."""


@dataclass(frozen=True)
class VseppSettings(HeadSettings):
    """Settings of VSE++ heads."""

    margin: float = 0.2
    """Margin of the triplet hinge."""


@dataclass(frozen=True)
class InfonceSettings(HeadSettings):
    """Settings of InfoNCE heads."""

    temperature: float = 0.07
    """Temperature at the start; it is trained."""


@dataclass(frozen=True)
class DccaSettings(HeadSettings):
    """Settings of DCCA."""

    dimensions: int = 128
    """Dimensions of the common space."""
    hidden: int = 1024
    """Width of a hidden layer in each network; 0: networks are linear."""
    dropout: float = 0.3
    """Share of the features that is dropped in training."""
    epochs: int = 12
    """Epochs; the step size rises and falls once over all of them."""
    batch_size: int = 2048
    """Pairs a step."""
    ridge: float = 1e-3
    """Added to the variances in the objective."""
    linear_ridge: float = 1e-4
    """Added to the variances in the linear CCA behind the networks."""
