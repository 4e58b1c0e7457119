"""Configuration of a search over settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from xmrank.config.baselines import BaselinesConfig
from xmrank.config.common import RUN, WORKER_TIMEOUT_S, at_least
from xmrank.config.supervised import SupervisedConfig
from xmrank.config.train import TrainConfig
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class TuneConfig:
    """Search the best settings and train with them for several seeds.

    The target rankers searches the settings of each loss and direction, the target baselines those of each baseline,
    the target supervised those of methods on each labelled set. Only rankers are trained again.
    """

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"embeddings", "lists", "output", "workers", "worker_timeout", "overwrite"}
    )
    embeddings: Path = RUN / "embeddings"
    """Embedding store that the lists were mined from."""
    lists: Path = RUN / "lists"
    """Candidate lists; only those of the role validation decide."""
    output: Path = RUN / "tuned"
    """Directory of the search (in search) and of the rankers with the best settings (in rankers)."""
    target: Literal["rankers", "baselines", "supervised"] = "rankers"
    """Owner of the settings: rankers; baselines (those of --baselines.baselines, such as vsepp.margin=[0.1,0.2], for
    baselines.py --best); supervised (a, b, c, sigma and neighbours of LCM, and those of other methods, such as
    gma.alignment=[1,10], on --supervised.data, for supervised.py --best)."""
    space: tuple[str, ...] = ()
    """Settings to search, each as NAME=VALUES: learning_rate=[0.001,0.0003] ranker.width=[64,128]
    neural_ndcg.temperature=[0.5,1] (a parameter of a loss); with random and optuna also uniform(a,b) and log(a,b)."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """grid: all combinations; random: --samples random points; optuna: --samples points proposed by TPE. With several
    --workers, Optuna's proposals depend on the order in which points end, and so on the machine."""
    samples: int = 20
    """random, optuna: number of points for each loss and direction, each baseline, or each labelled set."""
    scheduler: Literal["none", "asha"] = "none"
    """asha: stop bad points early. With several --workers, which ones are stopped depends on the order in which epochs
    end, and so on the machine."""
    grace: int = 2
    """asha: number of validations before a point can be stopped. A baseline with a closed-form solution is never
    stopped."""
    seed: int = 0
    """Seed of the random points and of every training of the search."""
    repeats: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the rankers that are trained with the best settings."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Target rankers: all settings that are not searched."""
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    """Target baselines: all settings that are not searched."""
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    """Target supervised: the labelled sets, and all settings that are not searched."""
    workers: int = 0
    """Points that are trained at the same time; 0: one per GPU, or one per core. If they are more than the GPUs, they
    share them. A search with optuna or asha that is interrupted continues to the same result only with 1."""
    worker_timeout: float = WORKER_TIMEOUT_S
    """Seconds to wait while no process of the cluster takes a point; then the search ends, and the same command
    continues. For the training of the best settings, as in train.py."""
    overwrite: bool = False
    """Delete the contents of the output directories first."""

    def __post_init__(self) -> None:
        for name in ("samples", "grace"):
            at_least(f"--{name}", getattr(self, name), 1)
        for name in ("seed", "workers", "worker_timeout"):
            at_least(f"--{name.replace('_', '-')}", getattr(self, name), 0)
        if not self.repeats or len(set(self.repeats)) < len(self.repeats):
            raise ConfigError(f"--repeats {' '.join(map(str, self.repeats))}: expected one or more seeds, each once")
        for name in ("embeddings", "lists", "output", "best", "seeds", "worker_timeout"):
            if getattr(self.train, name) != getattr(TrainConfig(), name):
                raise ConfigError(f"--train.{name.replace('_', '-')}: a search sets it; leave it out")
        for name in ("embeddings", "lists", "output", "best", "seeds", "workers", "worker_timeout", "overwrite"):
            if getattr(self.baselines, name) != getattr(BaselinesConfig(), name):
                raise ConfigError(f"--baselines.{name.replace('_', '-')}: a search sets it; leave it out")
        for name in ("output", "methods", "runs", "best", "tsne", "title", "workers", "overwrite"):
            if getattr(self.supervised, name) != getattr(SupervisedConfig(), name):
                raise ConfigError(f"--supervised.{name}: a search sets it or does not need it; leave it out")
