"""The configuration of every stage: frozen dataclasses whose attribute docstrings are the ``--help`` texts."""

from xmrank.config.baselines import BaselinesConfig
from xmrank.config.common import DIRECTIONS, RUN, Direction, at_least, semantic
from xmrank.config.embed import EmbedConfig
from xmrank.config.evaluate import EvaluateConfig
from xmrank.config.experiment import ExperimentConfig
from xmrank.config.mine import MineConfig
from xmrank.config.qrels import QrelsConfig
from xmrank.config.rank import RankConfig
from xmrank.config.register import RegisterConfig
from xmrank.config.report import ReportConfig
from xmrank.config.sentences import SentencesConfig
from xmrank.config.supervised import SupervisedConfig
from xmrank.config.train import RefinementSettings, TrainConfig
from xmrank.config.train_encoder import TrainEncoderConfig
from xmrank.config.tune import TuneConfig

__all__ = [
    "DIRECTIONS",
    "RUN",
    "BaselinesConfig",
    "Direction",
    "EmbedConfig",
    "EvaluateConfig",
    "ExperimentConfig",
    "MineConfig",
    "QrelsConfig",
    "RankConfig",
    "RefinementSettings",
    "RegisterConfig",
    "ReportConfig",
    "SentencesConfig",
    "SupervisedConfig",
    "TrainConfig",
    "TrainEncoderConfig",
    "TuneConfig",
    "at_least",
    "semantic",
]
