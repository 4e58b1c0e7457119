"""The methods by name; a new one is a function and a line here."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from xmrank.config import SupervisedConfig
from xmrank.config.supervised_methods import SOLVED
from xmrank.runtime.device import own_device
from xmrank.supervised.acmr import fit_acmr
from xmrank.supervised.algcn import fit_algcn
from xmrank.supervised.cfa import fit_cfa
from xmrank.supervised.clip4cmr import fit_clip4cmr
from xmrank.supervised.corr_ae import fit_corr_ae
from xmrank.supervised.correlation import fit_dcca, fit_gaussian_cca, fit_linear_cca
from xmrank.supervised.dcdh import fit_dcdh
from xmrank.supervised.dscmr import fit_dscmr
from xmrank.supervised.gch import fit_gch
from xmrank.supervised.gma import fit_gma
from xmrank.supervised.jfssl import fit_jfssl
from xmrank.supervised.jlslr import fit_jlslr
from xmrank.supervised.labelled_set import LabelledSet, join_items
from xmrank.supervised.lcm import fit_lcm, fit_lcm_kmeans
from xmrank.supervised.method_training import FittedMethod
from xmrank.supervised.ml_cca import fit_ml_cca
from xmrank.supervised.pan import fit_pan
from xmrank.supervised.srlch import fit_srlch, fit_srlch_hash
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
    "cca": fit_linear_cca,
    "kernel_cca": fit_gaussian_cca,
    "dcca": fit_dcca,
    "cfa": fit_cfa,
    "ml_cca": fit_ml_cca,
    "gma": fit_gma,
    "jfssl": fit_jfssl,
    "jlslr": fit_jlslr,
    "corr_ae": fit_corr_ae,
    "acmr": fit_acmr,
    "algcn": fit_algcn,
    "pan": fit_pan,
    "srlch": fit_srlch,
    "srlch_hash": fit_srlch_hash,
    "dcdh": fit_dcdh,
    "gch": fit_gch,
}


def settings_of(name: str, config: SupervisedConfig) -> SupervisedConfig:
    """The settings that a method is trained with; lcm_c0, without label network, uses labels in its search alone."""
    return replace(config, lcm=replace(config.lcm, c=0.0)) if name == "lcm_c0" else config


def with_method_settings(config: SupervisedConfig, settings: Mapping[str, Mapping[str, Any]]) -> SupervisedConfig:
    """The configuration with other settings of methods, among which may be LCM's number of neighbours.

    Args:
        config: the configuration.
        settings: method, as its settings are named → name → value.

    Raises:
        ConfigError, ValueError: a value that a method cannot have.
        AttributeError, TypeError: a method or a name that is no setting.
    """
    changes: dict[str, Any] = {}
    for method, own in settings.items():
        values = dict(own)
        if "neighbours" in values:
            changes["neighbours"] = values.pop("neighbours")
        changes[method] = replace(getattr(config, method), **values)
    return replace(config, **changes)


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
    device = own_device()
    fitted_on = data
    if config.fit_validation and name in SOLVED:
        fitted_on = replace(data, train=join_items(data.train, data.validation))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fitted = FITS[name](fitted_on, settings_of(name, config), seed, device, report)
    # Stage 1 counts the labels of the training items, whatever the fit has seen.
    return replace(fitted, train_labels=data.train.labels) if fitted_on is not data else fitted
