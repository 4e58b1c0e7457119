"""Configuration of an experiment, all stages together."""

from dataclasses import dataclass, field
from pathlib import Path

from xmrank.config.common import RUN
from xmrank.config.embed import EmbedConfig
from xmrank.config.evaluate import EvaluateConfig
from xmrank.config.mine import MineConfig
from xmrank.config.register import AUTO_NAME, check_model_name
from xmrank.config.report import ReportConfig
from xmrank.config.train import TrainConfig
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class ExperimentConfig:
    """Run all stages: embed, mine, train, evaluate, report."""

    output: Path = RUN
    """Directory of the experiment, with a directory for each stage."""
    register: str = AUTO_NAME
    """Register the best ranker of each direction with MLflow as NAME-i2t and NAME-t2i; auto: named after the data set;
    none: do not. The alias best moves only to a ranker that is significantly above the first stage."""
    overwrite: bool = False
    """Delete the contents of the directories of all stages first."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    """Embeddings."""
    mine: MineConfig = field(default_factory=MineConfig)
    """Candidate lists."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Rankers."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Evaluation."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """Report."""

    def __post_init__(self) -> None:
        check_model_name("--register", self.register)
        if self.embed.inspect:
            raise ConfigError("--embed.inspect: an experiment embeds; inspect with the job embed")

    @property
    def registers(self) -> bool:
        """Whether rankers are registered."""
        return self.register.lower() != "none"
