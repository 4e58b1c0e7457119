"""Configuration of the baselines."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from xmrank.baselines.baseline_settings import (
    CcaSettings,
    DccaSettings,
    HeadSettings,
    InfonceSettings,
    KernelSettings,
    RegularisedSettings,
    VseppSettings,
)
from xmrank.config.common import RUN, WORKER_TIMEOUT_S, ExplicitNames, at_least
from xmrank.config.evaluate import TrecFiles, folds_of
from xmrank.runtime.errors import ConfigError

SETTINGS = ("cca", "regularised_cca", "kernel_cca", "dcca", "cmpm", "cmpm_cmpc", "vsepp", "infonce")
"""Baselines with settings: a field of the same name holds them."""
BASELINES = ("cosine", *SETTINGS)
"""All baselines, in the order of the table."""


@dataclass(frozen=True)
class BaselinesConfig:
    """Fit baselines and evaluate them on the same lists and galleries as the rankers."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"embeddings", "lists", "output", "image_features", "text_features", "relevance_texts", "best", "workers"}
        | {"worker_timeout", "overwrite"}
    )
    embeddings: Path = RUN / "embeddings"
    """Embedding store that the lists were mined from."""
    lists: Path = RUN / "lists"
    """Candidate lists: those of the role validation choose the best epoch, those of the role test are ranked."""
    output: Path = RUN / "baselines"
    """Directory of the fitted baselines and of their results."""
    baselines: tuple[str, ...] = BASELINES
    """Baselines to fit: cosine (the encoder itself), cca, regularised_cca, kernel_cca, dcca, cmpm, cmpm_cmpc, vsepp,
    infonce."""
    image_features: Path | None = None
    """Image features to fit on instead of the store's embeddings: .npy, one row per image of the store."""
    text_features: Path | None = None
    """Caption features to fit on, likewise; their length may differ from that of the image features."""
    fit_splits: tuple[str, ...] = ()
    """Splits to fit on, without the images of the validation and test lists; none: the images that rankers train on."""
    listwise: tuple[float, ...] = (0.0,)
    """Weight of S-NDCG in the objective of cmpm, cmpm_cmpc, vsepp and infonce (Listwise ITR), 0 to 1; one fit for
    each."""
    relevance_texts: Path | None = None
    """Text embeddings that give the relevance in S-NDCG: .npy, one row per caption of the store; None: the store's
    own."""
    cca: CcaSettings = field(default_factory=CcaSettings)
    """CCA."""
    regularised_cca: RegularisedSettings = field(default_factory=RegularisedSettings)
    """Regularised CCA."""
    kernel_cca: KernelSettings = field(default_factory=KernelSettings)
    """Kernel CCA."""
    dcca: DccaSettings = field(default_factory=DccaSettings)
    """DCCA."""
    cmpm: HeadSettings = field(default_factory=HeadSettings)
    """CMPM."""
    cmpm_cmpc: HeadSettings = field(default_factory=HeadSettings)
    """CMPM with CMPC."""
    vsepp: VseppSettings = field(default_factory=VseppSettings)
    """VSE++."""
    infonce: InfonceSettings = field(default_factory=InfonceSettings)
    """InfoNCE."""
    best: Path | None = None
    """Best settings of each baseline, as found by tune.py --target baselines (best.json). They replace defaults and a
    preset's settings; a setting that is given as a flag is kept."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the baselines that learn by steps; one fit with each. Initial weights, data order and dropout depend on
    it."""
    top_n: int = 100
    """Number of ranked items kept per query and gallery."""
    galleries: tuple[str, ...] = ()
    """Galleries besides the full one, as for evaluate.py."""
    trec: TrecFiles = "gzip"
    """Also write rankings as TREC run and qrels files: gzip, plain, or none."""
    workers: int = 0
    """Fitting processes; 0: one per GPU, or one per core. If nodes are lost, fitting goes on with fewer."""
    worker_timeout: float = WORKER_TIMEOUT_S
    """Seconds to wait, in all, until the cluster has room for --workers processes (0: for one). After that, fitting
    goes on with fewer; without room for one it ends, and the same command continues."""
    overwrite: bool = False
    """Delete the contents of the output directory first."""
    explicit: ExplicitNames = field(default=frozenset(), compare=False)
    """Names of settings that --best does not replace."""

    def __post_init__(self) -> None:
        for name in ("baselines", "seeds", "listwise"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"--{name} {' '.join(map(str, values))}: expected one or more, each once")
        for name in self.baselines:
            if name not in BASELINES:
                raise ConfigError(f"--baselines {name}: expected one of {', '.join(BASELINES)}")
        at_least("--seeds", min(self.seeds), 0)
        at_least("--top-n", self.top_n, 1)
        at_least("--workers", self.workers, 0)
        at_least("--worker-timeout", self.worker_timeout, 0)
        for share in self.listwise:
            if not 0 <= share <= 1:
                raise ConfigError(f"--listwise {share:g}: expected a share between 0 and 1")
        # Features of one side cannot be compared with embeddings of the other.
        if (self.image_features is None) != (self.text_features is None):
            raise ConfigError("--image-features and --text-features: expected both or neither")
        for text in self.galleries:
            folds_of(text)
