"""Settings of the supervised methods beside LCM, DSCMR and CLIP4CMR, and which of them a method is fitted with."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from xmrank.config.common import at_least, more_than_zero
from xmrank.runtime.errors import ConfigError

METHOD_SETTINGS = {
    "embeddings": "",
    "lcm": "lcm",
    "lcm_c0": "lcm",
    "lcm_kmeans": "lcm",
    "dscmr": "dscmr",
    "clip4cmr": "clip4cmr",
    "cca": "cca",
    "kernel_cca": "kernel_cca",
    "dcca": "dcca",
    "cfa": "cfa",
    "ml_cca": "ml_cca",
    "gma": "gma",
    "jfssl": "jfssl",
    "jlslr": "jlslr",
    "corr_ae": "corr_ae",
    "acmr": "acmr",
    "algcn": "algcn",
    "pan": "pan",
    "srlch": "srlch",
    "srlch_hash": "srlch",
    "dcdh": "dcdh",
    "gch": "gch",
}
"""Method → the field of its settings; empty for a method without any."""
SOLVED = frozenset({"embeddings", "cca", "kernel_cca", "cfa", "ml_cca", "gma", "jfssl", "jlslr"})
"""Methods that nothing random enters: every seed gives the same, and they need no validation items."""
RATES = ("dropout",)
POSITIVE = ("learning_rate", "sigma", "bandwidth")


@dataclass(frozen=True)
class MethodConfig:
    """What the settings of all these methods share: whole numbers are at least 1, others at least 0.

    Raises:
        ConfigError: names the flag and what was expected.
    """

    flag: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            value, flag = getattr(self, field.name), f"--{self.flag}.{field.name}".replace("_", "-")
            if isinstance(field.default, bool | str):
                continue
            at_least(flag, value, 1 if isinstance(field.default, int) else 0)
            if field.name in POSITIVE:
                more_than_zero(flag, value)
            if field.name in RATES and value >= 1:
                raise ConfigError(f"{flag} {value}: expected less than 1")


@dataclass(frozen=True)
class CfaConfig(MethodConfig):
    """Cross-modal factor analysis."""

    flag: ClassVar[str] = "cfa"
    dimensions: int = 32
    """Dimensions of the common space; no more than the shorter features have."""


@dataclass(frozen=True)
class MlCcaConfig(MethodConfig):
    """Multi-label CCA."""

    flag: ClassVar[str] = "ml_cca"
    dimensions: int = 10
    """Dimensions of the common space; no more than the shorter features have."""
    bandwidth: float = 1.0
    """What squared distances of label vectors are divided by in the weight of a pair."""
    ridge: float = 1e-4
    """Added to the variances, as a share of their mean."""


@dataclass(frozen=True)
class GmaConfig(MethodConfig):
    """Generalized multiview analysis with linear discriminant analysis in each view (GMLDA)."""

    flag: ClassVar[str] = "gma"
    dimensions: int = 10
    """Dimensions of the common space; no more than the shorter features have, and than classes less one."""
    alignment: float = 1000.0
    """Weight of the product of the two views' class means, or items (λ); scatters are sums over items."""
    text_weight: float = 1.0
    """Weight of the texts' scatter between classes (μ)."""
    align_pairs: bool = False
    """Align pairs, as the authors' code does by default, instead of the means of classes."""
    ridge: float = 1e-3
    """Added to the scatters within classes, as a share of their mean."""


@dataclass(frozen=True)
class JfsslConfig(MethodConfig):
    """Joint feature selection and subspace learning."""

    flag: ClassVar[str] = "jfssl"
    sparsity: float = 0.1
    """Weight of the ℓ2,1 norms of the projections (λ1)."""
    graph: float = 1e-4
    """Weight of the graph regularisation (λ2)."""
    nearest: int = 10
    """Nearest items of the same modality that an item is joined to in the graph."""
    bandwidth: float = 0.5
    """Deviation of the Gaussian of distances within a modality (σ)."""
    within: float = 1.0
    """Weight of the edges within a modality (β)."""
    rounds: int = 10
    """Number of rounds of the alternating solution."""


@dataclass(frozen=True)
class JlslrConfig(MethodConfig):
    """Joint latent subspace learning and regression."""

    flag: ClassVar[str] = "jlslr"
    dimensions: int = 32
    """Dimensions of the latent space."""
    label_weight: float = 1.0
    """Weight of the regression from the latent space to the labels (α)."""
    ridge: float = 0.1
    """Weight of the squared norms of all projections (β)."""
    rounds: int = 30
    """Number of rounds of the alternating solution."""


@dataclass(frozen=True)
class TrainedConfig(MethodConfig):
    """What methods that are trained by steps share."""

    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    batch_size: int = 64
    """Pairs per step."""
    epochs: int = 500
    """Largest number of epochs."""


@dataclass(frozen=True)
class CorrAeConfig(TrainedConfig):
    """Correspondence autoencoder."""

    flag: ClassVar[str] = "corr_ae"
    alpha: float = 0.8
    """Weight of the distance of a pair's codes; the rest is that of the reconstructions."""
    width: int = 256
    """Size of the hidden layers."""
    dimensions: int = 64
    """Size of the codes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha > 1:
            raise ConfigError(f"--corr-ae.alpha {self.alpha}: expected at most 1")


@dataclass(frozen=True)
class AcmrConfig(TrainedConfig):
    """Adversarial cross-modal retrieval."""

    flag: ClassVar[str] = "acmr"
    alpha: float = 0.01
    """Weight of the triplets (L_imi)."""
    beta: float = 1.0
    """Weight of the label predictions (L_imd)."""
    decay: float = 1e-4
    """Weight of the squared weights of the embedding networks (L_reg)."""
    adversary: float = 0.1
    """What the adversary's gradient is multiplied by on its way, turned around, into the embedding networks."""
    margin: float = 0.1
    """Margin of the triplets (μ)."""
    triplet_weight: float = 1.0
    """Weight of the items of other labels in the triplets (λ)."""
    width: int = 512
    """Size of the first layer."""
    second_width: int = 100
    """Size of the second layer."""
    dimensions: int = 40
    """Dimensions of the common space."""


@dataclass(frozen=True)
class AlgcnConfig(TrainedConfig):
    """Adaptive label-aware graph convolutional network, with the values of its authors' code."""

    flag: ClassVar[str] = "algcn"
    learning_rate: float = 5e-5
    """Learning rate of Adam."""
    batch_size: int = 100
    """Pairs per step."""
    alpha: float = 0.2
    """Weight of the discrimination loss in the common space."""
    gamma: float = 0.5
    """Weight of the learned part of the graph."""
    threshold: float = 0.4
    """Least share of a label's items that carry another label too, for an edge between them."""
    supervision: float = 0.5
    """Weight of the graph's self-supervision."""
    drawn_edges: float = 0.2
    """Probability of an edge that is drawn for the self-supervision."""
    graph_rate: float = 100.0
    """Learning rate of the graph, as a multiple of the others'."""
    dimensions: int = 1024
    """Dimensions of the common space."""
    label_size: int = 300
    """Size of the labels' vectors, which are learned."""


@dataclass(frozen=True)
class PanConfig(TrainedConfig):
    """Prototype-based adaptive network."""

    flag: ClassVar[str] = "pan"
    learning_rate: float = 1e-4
    """Learning rate of Adam."""
    batch_size: int = 100
    """Pairs per step."""
    classifier: Literal["distance", "dot"] = "distance"
    """Logits: minus squared distances to the prototypes, or dot products with them."""
    regularisation: float = 0.1
    """Weight of the distance of items to their prototype."""
    margin: float = 0.0
    """Weight of the adaptive margins: half the squared distance of a prototype to the nearest other one."""
    width: int = 1024
    """Size of the hidden layer."""
    dimensions: int = 512
    """Dimensions of the common space."""


@dataclass(frozen=True)
class SrlchConfig(MethodConfig):
    """Subspace relation learning for cross-modal hashing, with the values of its authors' code for Wikipedia."""

    flag: ClassVar[str] = "srlch"
    bits: int = 32
    """Length of the codes."""
    anchors: int = 500
    """Training items drawn for the kernel features."""
    sigma: float = 0.6
    """Deviation of the Gaussian kernel, on centred features of unit length."""
    image_weight: float = 0.1
    """Weight of the images in the codes (μ_v)."""
    text_weight: float = 1e-5
    """Weight of the texts in the codes (μ_t)."""
    label_ridge: float = 0.1
    """Ridge of the projection of labels (λ)."""
    image_ridge: float = 0.01
    """Ridge of the projection of images (α)."""
    text_ridge: float = 0.1
    """Ridge of the projection of texts (β)."""
    rounds: int = 10
    """Number of rounds of the alternating solution."""


@dataclass(frozen=True)
class DcdhConfig(TrainedConfig):
    """Deep collaborative discrete hashing, with the values of its authors' code."""

    flag: ClassVar[str] = "dcdh"
    epochs: int = 50
    """Largest number of rounds: epochs of the networks, then the codes."""
    passes: int = 3
    """Epochs of the networks in a round."""
    samples: int = 2000
    """Training items drawn for a round."""
    bits: int = 32
    """Length of the codes."""
    width: int = 512
    """Size of the hidden layers."""
    gamma: float = 200.0
    """Weight of the distance of outputs to their codes (γ)."""
    label_weight: float = 0.5
    """Weight of the label network's outputs (λ)."""
    product_weight: float = 0.5
    """Weight of the outputs of the outer products (μ)."""
    distance_weight: float = 0.01
    """Weight of the distance between an item's output and its label's."""


@dataclass(frozen=True)
class GchConfig(TrainedConfig):
    """Graph convolutional hashing."""

    flag: ClassVar[str] = "gch"
    batch_size: int = 128
    """Pairs per step; the graph joins the pairs of a batch."""
    epochs: int = 100
    """Largest number of rounds: an epoch of each network."""
    bits: int = 32
    """Length of the codes."""
    width: int = 512
    """Size of the feature layers."""
