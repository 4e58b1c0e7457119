"""The paper's training, for benchmarks of the parts that it has: fixed lists, a plain ranker, no refinement."""

from xmrank.config import TrainConfig
from xmrank.config.parsing import parse_config


def read_paper_training() -> TrainConfig:
    """The preset `paper` of the job `train`."""
    return parse_config(TrainConfig, ["--preset", "paper"], name="train")
