"""The jobs: for each the class of its configuration and the function of its stage, imported when they are needed.

The command line reads the flags first and imports the stage, with torch and Ray, after that.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        config: class in `xmrank.config`; its docstring says what the job does.
        stage: the function to call with the configuration, as MODULE:FUNCTION.
        uses_device: whether it computes on a GPU where there is one.
    """

    config: str
    stage: str
    uses_device: bool = True

    def load_config(self) -> type[Any]:
        """The class of the configuration."""
        config_type: type[Any] = getattr(importlib.import_module("xmrank.config"), self.config)
        return config_type

    def load_stage(self) -> Callable[[Any], object]:
        """The stage's function; this imports what the stage needs."""
        module, _, function = self.stage.partition(":")
        stage: Callable[[Any], object] = getattr(importlib.import_module(module), function)
        return stage


JOBS = {
    "experiment": Job("ExperimentConfig", "xmrank.experiment.stage:experiment"),
    "embed": Job("EmbedConfig", "xmrank.embed.stage:embed_or_inspect"),
    "mine": Job("MineConfig", "xmrank.mine.stage:mine"),
    "train": Job("TrainConfig", "xmrank.train.stage:train"),
    "tune": Job("TuneConfig", "xmrank.tune.stage:tune"),
    "baselines": Job("BaselinesConfig", "xmrank.baselines.stage:baselines"),
    "supervised": Job("SupervisedConfig", "xmrank.supervised.stage:supervised"),
    "evaluate": Job("EvaluateConfig", "xmrank.evaluate.stage:evaluate"),
    "register": Job("RegisterConfig", "xmrank.register.stage:register", uses_device=False),
    "rank": Job("RankConfig", "xmrank.rank.stage:rank"),
    "report": Job("ReportConfig", "xmrank.report.stage:report", uses_device=False),
    "qrels": Job("QrelsConfig", "xmrank.qrels.stage:evaluate_qrels", uses_device=False),
    "sentences": Job("SentencesConfig", "xmrank.sentences.stage:sentences"),
    "train_encoder": Job("TrainEncoderConfig", "xmrank.train_encoder.stage:train_encoder"),
}
"""All jobs by name: ``jobs/NAME.py``, ``xmrank NAME``, and a section of a preset."""


def uses_device(name: str) -> bool:
    """Whether a job, of the registry or not, computes on a GPU where there is one."""
    return name not in JOBS or JOBS[name].uses_device
