"""The configuration of every stage: frozen dataclasses whose attribute docstrings are the ``--help`` texts."""

from xmrank.config.base import DIRECTIONS, RUN, Direction, at_least, semantic
from xmrank.config.baselines import BaselinesConfig
from xmrank.config.embed import ColumnsConfig, EmbedConfig, ScenesConfig, SentencesConfig
from xmrank.config.encoder import TrainEncoderConfig
from xmrank.config.experiment import ExperimentConfig
from xmrank.config.mine import MineConfig
from xmrank.config.rank import RankConfig, RegisterConfig
from xmrank.config.results import EvaluateConfig, JudgeConfig, ReportConfig
from xmrank.config.supervised import SupervisedConfig
from xmrank.config.train import RankerConfig, RefineConfig, TrainConfig
from xmrank.config.tune import TuneConfig

__all__ = [
    "DIRECTIONS",
    "RUN",
    "BaselinesConfig",
    "ColumnsConfig",
    "Direction",
    "EmbedConfig",
    "EvaluateConfig",
    "ExperimentConfig",
    "JudgeConfig",
    "MineConfig",
    "RankConfig",
    "RankerConfig",
    "RefineConfig",
    "RegisterConfig",
    "ReportConfig",
    "ScenesConfig",
    "SentencesConfig",
    "SupervisedConfig",
    "TrainConfig",
    "TrainEncoderConfig",
    "TuneConfig",
    "at_least",
    "semantic",
]
