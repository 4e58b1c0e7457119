"""The methods by name; a new one is a function and a line here."""

from collections.abc import Callable

import torch

from xmrank.config import SupervisedConfig
from xmrank.supervised.clip4cmr import fit_clip4cmr
from xmrank.supervised.data import LabelledSet
from xmrank.supervised.dscmr import fit_dscmr
from xmrank.supervised.fitting import Fitted
from xmrank.supervised.lcm import fit_lcm, fit_lcm_c0, fit_lcm_kmeans

Fit = Callable[[LabelledSet, SupervisedConfig, int, torch.device], Fitted]


def fit_embeddings(data: LabelledSet, config: SupervisedConfig, seed: int, device: torch.device) -> Fitted:  # noqa: ARG001
    """The embeddings as they are; nothing is trained."""
    return Fitted(lambda _side, features: features, data.train.labels)


FITS: dict[str, Fit] = {
    "embeddings": fit_embeddings,
    "lcm": fit_lcm,
    "lcm_c0": fit_lcm_c0,
    "lcm_kmeans": fit_lcm_kmeans,
    "dscmr": fit_dscmr,
    "clip4cmr": fit_clip4cmr,
}


def fit_method(name: str, data: LabelledSet, config: SupervisedConfig, seed: int) -> Fitted:
    """Train a method on a set; the same seed gives the same result on the same machine.

    Args:
        name: one of ``FITS``.
        data: the set.
        config: settings of all methods.
        seed: of weights, dropout and the order of items.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FITS[name](data, config, seed, device)
