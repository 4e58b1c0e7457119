"""The paper's plain ranker and training: fixed lists, no refinement, no dropout, no first stage in the score.

For tests of one part, which the defaults of `train` would bury under the others. The preset `paper` holds the same.
"""

from dataclasses import fields
from typing import Any

from xmrank.config import RefinementSettings, TrainConfig
from xmrank.rankers import RANKERS, ContextAwareParameters

PLAIN_RANKER: dict[str, Any] = {
    "features": ("concat",),
    "dropout": 0.0,
    "input_dropout": 0.0,
    "residual": None,
    "zero_init_output": False,
}
PLAIN_REFINEMENT: dict[str, Any] = {
    "members": 0,
    "noise": 0.0,
    "epochs": 8,
    "average": 0.0,
    "memory_weight": 0.0,
    "learn_fusion": False,
}
PLAIN_TRAINING: dict[str, Any] = {
    "refine": RefinementSettings(**PLAIN_REFINEMENT),
    "sampling": "fixed",
    "sampling_positives": "mined",
    "epochs": 10,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "validate_start": False,
}


def plain_ranker(**changes: Any) -> ContextAwareParameters:
    """The paper's ranker."""
    return ContextAwareParameters(**{**PLAIN_RANKER, **changes})


def plain_values(name: str) -> dict[str, Any]:
    """What a ranker of a name is made plain by; those that read tokens keep what they start from."""
    if name not in RANKERS:
        return {}  # what makes rankers refuses it
    parameters = RANKERS[name].parameters_type
    known = {field.name for field in fields(parameters)}
    plain = ("dropout", "input_dropout") if parameters.reads_tokens else tuple(PLAIN_RANKER)
    return {name: PLAIN_RANKER[name] for name in plain if name in known}


def plain_refinement(**changes: Any) -> RefinementSettings:
    """No refinement; with members, one that is as simple as can be."""
    return RefinementSettings(**{**PLAIN_REFINEMENT, **changes})


def plain_training(**changes: Any) -> TrainConfig:
    """A training like the paper's, of 10 epochs."""
    return TrainConfig(**{"ranker": plain_ranker(), **PLAIN_TRAINING, **changes})
