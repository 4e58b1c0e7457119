"""Configuration of supervised cross-modal retrieval."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from xmrank.baselines.baseline_settings import CcaSettings, DccaSettings, KernelSettings
from xmrank.config.common import ExplicitNames, at_least, more_than_zero
from xmrank.config.supervised_methods import (
    METHOD_SETTINGS,
    AcmrConfig,
    AlgcnConfig,
    CfaConfig,
    CorrAeConfig,
    DcdhConfig,
    GchConfig,
    GmaConfig,
    JfsslConfig,
    JlslrConfig,
    MlCcaConfig,
    PanConfig,
    SrlchConfig,
)
from xmrank.runtime.errors import ConfigError

METHODS = tuple(METHOD_SETTINGS)
DATA_FORM = re.compile(r"[\w.-]+(/[\w.+-]+)?=.+")


@dataclass(frozen=True)
class LcmConfig:
    """LCM, with the values of its paper."""

    a: float = 1e-2
    """Weight of the images' network in the pivots."""
    b: float = 1e-2
    """Weight of the texts' network in the pivots."""
    c: float = 1e-1
    """Weight of the label network in the pivots; 0: no label network (as in lcm_c0)."""
    sigma: float = 1e-2
    """Weight of the distance to the pivots in the loss of the label network."""
    width: int = 256
    """Size of the hidden layer."""
    dimensions: int = 32
    """Dimensions of the common space."""
    dropout: float = 0.2
    """Dropout probability of the hidden layer."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    batch_size: int = 64
    """Items per step."""
    rounds: int = 1000
    """Largest number of rounds: an epoch of each network, then the pivots."""

    def __post_init__(self) -> None:
        for name in ("a", "b", "c", "sigma", "dropout", "learning_rate"):
            at_least(f"--lcm.{name.replace('_', '-')}", getattr(self, name), 0)
        for name in ("width", "dimensions", "rounds"):
            at_least(f"--lcm.{name}", getattr(self, name), 1)
        at_least("--lcm.batch-size", self.batch_size, 2)
        if self.dropout >= 1:
            raise ConfigError(f"--lcm.dropout {self.dropout}: expected less than 1")


@dataclass(frozen=True)
class DscmrConfig:
    """DSCMR, with the values of its authors' code."""

    alpha: float = 1e-3
    """Weight of the discrimination loss in the common space."""
    beta: float = 0.1
    """Weight of the distance between image and text of a pair."""
    width: int = 2048
    """Size of the layer of each modality."""
    dimensions: int = 1024
    """Dimensions of the common space."""
    learning_rate: float = 1e-4
    """Learning rate of Adam."""
    batch_size: int = 100
    """Pairs per step."""
    epochs: int = 500
    """Largest number of epochs."""

    def __post_init__(self) -> None:
        for name in ("width", "dimensions", "epochs"):
            at_least(f"--dscmr.{name}", getattr(self, name), 1)
        at_least("--dscmr.batch-size", self.batch_size, 2)
        more_than_zero("--dscmr.learning-rate", self.learning_rate)


@dataclass(frozen=True)
class Clip4cmrConfig:
    """CLIP4CMR with the prototype loss of PAN, with the values of its authors' code."""

    width: int = 256
    """Size of the hidden layer."""
    dimensions: int = 1024
    """Dimensions of the common space."""
    dropout: float = 0.1
    """Dropout probability of the outputs."""
    learning_rate: float = 1e-4
    """Learning rate of Adam."""
    batch_size: int = 300
    """Pairs per step."""
    epochs: int = 500
    """Largest number of epochs."""

    def __post_init__(self) -> None:
        for name in ("width", "dimensions", "epochs"):
            at_least(f"--clip4cmr.{name}", getattr(self, name), 1)
        at_least("--clip4cmr.batch-size", self.batch_size, 2)
        more_than_zero("--clip4cmr.learning-rate", self.learning_rate)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"--clip4cmr.dropout {self.dropout}: expected at least 0 and below 1")


@dataclass(frozen=True)
class SupervisedConfig:
    """Supervised cross-modal retrieval on labelled sets, with and without a second stage."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"data", "labels", "output", "best", "workers", "overwrite", "title"}
    )
    data: tuple[str, ...] = ()
    """Labelled sets, each as NAME=PATH or NAME/FEATURES=PATH: an embedding store, a feature file (.mat, .npz, .h5, .pkl
    of arrays) or a folder of them (also .npy). Known names: wikipedia, pascal-sentence, nus-wide-10k, xmedianet,
    ms-coco, mirflickr. FEATURES may be IMAGE+TEXT, which also selects among several arrays of a file. PATH,PATH reads
    images from the first and texts from the second."""
    labels: tuple[str, ...] = ()
    """Labels for stores without labels, each as NAME=PATH: COCO's instances JSON, or MIRFlickr's folder of
    annotations."""
    output: Path = Path("runs/supervised")
    """Directory of the results (in results) and of their report (in report)."""
    methods: tuple[str, ...] = METHODS
    """Methods: embeddings (unchanged), lcm, lcm_c0 (no label network; labels are used in the second stage only),
    lcm_kmeans (no labels; clusters replace them), dscmr, clip4cmr; cca, kernel_cca, dcca, cfa, corr_ae (no labels);
    ml_cca, gma, jfssl, jlslr, acmr, algcn, pan, srlch; srlch_hash, dcdh, gch (hash codes, by Hamming distance)."""
    runs: tuple[int, ...] = (0, 1, 2)
    """Seeds; one run with each."""
    neighbours: int = 50
    """K, the number of nearest training items whose labels represent a query in the second stage."""
    label_shares: tuple[float, ...] = ()
    """Also search in two stages with the labels of these shares of the retrieval set, above 0 and below 1; the others
    are predicted."""
    neighbour_counts: tuple[int, ...] = ()
    """Also search in two stages with these numbers of neighbours."""
    label_noise: float = 0.0
    """Share of the training and validation items whose labels are replaced by another class, drawn by --split-seed."""
    patience: int = 20
    """Stop after this many rounds or epochs without a better validation mAP."""
    captions: Literal["first", "mean"] = "first"
    """Embedding stores: the text of an image is its first caption, or the mean of all captions."""
    split_seed: int = 0
    """Seed that chooses validation items in sets without any; the same for all runs."""
    unit_length: bool = True
    """Scale input features to unit length, as the paper's Algorithm 1 does."""
    fit_validation: bool = False
    """Fit the methods that are solved in one go (cca, kernel_cca, cfa, ml_cca, gma, jfssl, jlslr) on the validation
    items too, which they do not need."""
    best: Path | None = None
    """Best settings of methods on each set, as found by tune.py --target supervised (best.json). They replace defaults
    and a preset's settings; a setting that is given as a flag is kept."""
    lcm: LcmConfig = field(default_factory=LcmConfig)
    """LCM."""
    dscmr: DscmrConfig = field(default_factory=DscmrConfig)
    """DSCMR."""
    clip4cmr: Clip4cmrConfig = field(default_factory=Clip4cmrConfig)
    """CLIP4CMR."""
    cca: CcaSettings = field(default_factory=CcaSettings)
    """CCA."""
    kernel_cca: KernelSettings = field(default_factory=KernelSettings)
    """Kernel CCA."""
    dcca: DccaSettings = field(default_factory=lambda: DccaSettings(dimensions=32, epochs=50, batch_size=500))
    """DCCA."""
    cfa: CfaConfig = field(default_factory=CfaConfig)
    """Cross-modal factor analysis."""
    ml_cca: MlCcaConfig = field(default_factory=MlCcaConfig)
    """Multi-label CCA."""
    gma: GmaConfig = field(default_factory=GmaConfig)
    """Generalized multiview analysis, LDA form."""
    jfssl: JfsslConfig = field(default_factory=JfsslConfig)
    """Joint feature selection and subspace learning."""
    jlslr: JlslrConfig = field(default_factory=JlslrConfig)
    """Joint latent subspace learning and regression."""
    corr_ae: CorrAeConfig = field(default_factory=CorrAeConfig)
    """Correspondence autoencoder."""
    acmr: AcmrConfig = field(default_factory=AcmrConfig)
    """Adversarial cross-modal retrieval."""
    algcn: AlgcnConfig = field(default_factory=AlgcnConfig)
    """Adaptive label-aware graph convolutional network."""
    pan: PanConfig = field(default_factory=PanConfig)
    """Prototype-based adaptive network."""
    srlch: SrlchConfig = field(default_factory=SrlchConfig)
    """Subspace relation learning for cross-modal hashing; also of srlch_hash."""
    dcdh: DcdhConfig = field(default_factory=DcdhConfig)
    """Deep collaborative discrete hashing."""
    gch: GchConfig = field(default_factory=GchConfig)
    """Graph convolutional hashing."""
    tsne: int = 600
    """Number of images and of texts in the t-SNE pictures of LCM's common space; 0: no pictures."""
    title: str = "Supervised cross-modal retrieval"
    """Heading of the report."""
    workers: int = 0
    """Methods that are trained at the same time; 0: one per GPU, or one per core."""
    explicit: ExplicitNames = field(default=frozenset(), compare=False)
    """Names of settings that --best does not replace."""
    overwrite: bool = False
    """Delete the contents of the output directories first."""

    def __post_init__(self) -> None:
        for text in self.data:
            if not DATA_FORM.fullmatch(text):
                raise ConfigError(f"--data {text}: expected NAME=PATH or NAME/FEATURES=PATH")
            # PATH,PATH: images from the first, texts from the second.
            if len(text.split("=", 1)[1].split(",")) > 2:
                raise ConfigError(f"--data {text}: expected one path, or two with a comma between them")
        names = [text.split("=", 1)[0] for text in self.data]
        for flag, values in (("--data", names), ("--methods", self.methods), ("--runs", self.runs)):
            if (not values and flag != "--data") or len(set(values)) < len(values):
                raise ConfigError(f"{flag} {' '.join(map(str, values))}: expected one or more, each once")
        for method in self.methods:
            if method not in METHODS:
                raise ConfigError(f"--methods {method}: expected one of {', '.join(METHODS)}")
        for share in self.label_shares:
            if not 0 < share < 1:
                raise ConfigError(f"--label-shares {share}: expected more than 0 and less than 1")
        for count in self.neighbour_counts:
            at_least("--neighbour-counts", count, 1)
        if not 0 <= self.label_noise <= 1:
            raise ConfigError(f"--label-noise {self.label_noise}: expected a share from 0 to 1")
        self._check_labels({name.split("/")[0] for name in names})
        for name in ("neighbours", "patience"):
            at_least(f"--{name}", getattr(self, name), 1)
        for name in ("split_seed", "tsne", "workers"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        for seed in self.runs:
            at_least("--runs", seed, 0)
        self._refuse_idle_methods()

    def idle_settings(self) -> list[str]:
        """Names of the settings of methods that are not among the methods; lcm_c0 and lcm_kmeans have those of lcm."""
        used = {METHOD_SETTINGS[method] for method in self.methods}
        return [name for name in dict.fromkeys(METHOD_SETTINGS.values()) if name and name not in used]

    def _refuse_idle_methods(self) -> None:
        """Raise ConfigError for a flag of a method that is not among the methods."""
        for name in sorted(self.explicit):
            method = name.partition(".")[0]
            if method in self.idle_settings():
                flag = f"--{name}".replace("_", "-")
                raise ConfigError(f"{flag}: {method} is not among --methods {' '.join(self.methods)}")

    def _check_labels(self, names: set[str]) -> None:
        """Raise ConfigError for labels that are not NAME=PATH of one of the sets."""
        for text in self.labels:
            name, equals, path = text.partition("=")
            if not (equals and path):
                raise ConfigError(f"--labels {text}: expected NAME=PATH")
            if name not in names:
                raise ConfigError(f"--labels {name}: no such set in --data ({', '.join(sorted(names))})")
