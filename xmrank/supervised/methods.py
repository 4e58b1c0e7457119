"""The methods by name; a new one is a function and a line here."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from xmrank.config import SupervisedConfig
from xmrank.supervised.clip4cmr import fit_clip4cmr
from xmrank.supervised.dscmr import fit_dscmr
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.lcm import fit_lcm, fit_lcm_kmeans
from xmrank.supervised.method_training import FittedMethod
from xmrank.train.fit_loop import ReportEpoch, ignore_epoch

Fit = Callable[[LabelledSet, SupervisedConfig, int, torch.device, ReportEpoch], FittedMethod]


def fit_embeddings(data: LabelledSet, *_unused: object) -> FittedMethod:
    """The embeddings as they are; nothing is trained."""
    return FittedMethod(lambda _side, features: features, data.train.labels)


FITS: dict[str, Fit] = {
    "embeddings": fit_embeddings,
    "lcm": fit_lcm,
    "lcm_c0": fit_lcm,  # its settings tell it from the other
    "lcm_kmeans": fit_lcm_kmeans,
    "dscmr": fit_dscmr,
    "clip4cmr": fit_clip4cmr,
}


def settings_of(name: str, config: SupervisedConfig) -> SupervisedConfig:
    """The settings that a method is trained with; lcm_c0, without label network, uses labels in its search alone."""
    return replace(config, lcm=replace(config.lcm, c=0.0)) if name == "lcm_c0" else config


def with_lcm_settings(config: SupervisedConfig, settings: Mapping[str, Any]) -> SupervisedConfig:
    """The configuration with other settings of LCM, among which may be the number of neighbours.

    Raises:
        ConfigError: a value that LCM cannot have.
        TypeError: a name that is no setting.
    """
    own = dict(settings)
    neighbours = own.pop("neighbours", config.neighbours)
    return replace(config, neighbours=neighbours, lcm=replace(config.lcm, **own))


def fit_method(
    name: str, data: LabelledSet, config: SupervisedConfig, seed: int, report: ReportEpoch = ignore_epoch
) -> FittedMethod:
    """Train a method on a set; the same seed gives the same result on the same machine.

    Args:
        name: one of ``FITS``.
        data: the set.
        config: settings of all methods.
        seed: of weights, dropout and the order of items.
        report: called with the figures of every epoch or round.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FITS[name](data, settings_of(name, config), seed, device, report)
