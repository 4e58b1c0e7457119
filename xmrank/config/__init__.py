"""The configuration of every stage: frozen dataclasses whose attribute docstrings are the ``--help`` texts.

A class is imported from its module at first use (PEP 562), so that a job reads only the modules that it needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from xmrank.config.train import DetectionSettings, RefinementSettings, TrainConfig
    from xmrank.config.train_encoder import TrainEncoderConfig
    from xmrank.config.tune import TuneConfig

__all__ = [
    "DIRECTIONS",
    "RUN",
    "BaselinesConfig",
    "DetectionSettings",
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

_MODULES = {
    "common": ("DIRECTIONS", "RUN", "Direction", "at_least", "semantic"),
    "train": ("DetectionSettings", "RefinementSettings", "TrainConfig"),
    "train_encoder": ("TrainEncoderConfig",),
}
"""Public names by module; a module that is not listed has one, its own name with Config: ``mine`` has MineConfig."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name from its module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULE_OF.get(name, name.removesuffix("Config").lower())
    return getattr(importlib.import_module(f"xmrank.config.{module}"), name)
