"""All baselines by name. A new one is a function, its settings, and a line here."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import yaml

from xmrank.baselines import closed, heads
from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.towers import ProjectionTowers
from xmrank.config import BaselinesConfig
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.paths import resolve

Fitted = tuple[ProjectionTowers, heads.BestFit]


@dataclass(frozen=True)
class Baseline:
    """How a baseline is fitted.

    Attributes:
        fit: (pairs, settings, training) → towers that project both sides, and the epochs, if it has any.
        settings: its settings, at their defaults.
        learned: whether it is trained by steps, so that seeds matter.
        listwise: whether S-NDCG can be mixed into its objective.
        embeddings: whether it ranks the store's own embeddings, whatever features are given.
    """

    fit: Callable[[FeaturePairs, Any, heads.HeadTraining], Fitted]
    settings: Any
    learned: bool = False
    listwise: bool = False
    embeddings: bool = False


def solved(
    fit: Callable[[FeaturePairs, Any], ProjectionTowers], settings: Any, *, embeddings: bool = False
) -> Baseline:
    """A baseline that is solved in one go."""

    def in_one_go(pairs: FeaturePairs, chosen: Any, _training: heads.HeadTraining) -> Fitted:
        return fit(pairs, chosen), heads.BestFit()

    return Baseline(in_one_go, settings, embeddings=embeddings)


def trained(kind: Callable[[Any, FeaturePairs], heads.Objective], settings: Any, *, listwise: bool = True) -> Baseline:
    """A baseline of projection heads under an objective."""
    return Baseline(partial(heads.train_heads, kind=kind), settings, learned=True, listwise=listwise)


BASELINES: dict[str, Baseline] = {
    "cosine": solved(closed.cosine, closed.CosineSettings(), embeddings=True),
    "cca": solved(closed.cca, closed.CcaSettings()),
    "regularised_cca": solved(closed.regularised_cca, closed.RegularisedSettings()),
    "kernel_cca": solved(closed.kernel_cca, closed.KernelSettings()),
    "dcca": trained(heads.Dcca, heads.DccaSettings(), listwise=False),
    "cmpm": trained(heads.Cmpm, heads.HeadSettings()),
    "cmpm_cmpc": trained(heads.CmpmCmpc, heads.HeadSettings()),
    "vsepp": trained(heads.Vsepp, heads.VseppSettings()),
    "infonce": trained(heads.Infonce, heads.InfonceSettings()),
}


@dataclass(frozen=True)
class BaselineFit:
    """One fit: a baseline, the share of S-NDCG in its objective, a seed (−1 where seeds do not matter)."""

    baseline: str
    listwise: float
    seed: int

    @property
    def method(self) -> str:
        """Its name in tables: vsepp, or vsepp-sndcg0.5."""
        return self.baseline + (f"-sndcg{self.listwise:g}" if self.listwise else "")

    @property
    def name(self) -> str:
        """Its name and that of its folder."""
        return self.method + (f"-seed{self.seed}" if self.seed >= 0 else "")


def all_fits(config: BaselinesConfig) -> list[BaselineFit]:
    """Every baseline, with every share and seed that mean something to it."""
    fits = []
    for name in config.baselines:
        baseline = BASELINES[name]
        for share in config.listwise if baseline.listwise else (0.0,):
            fits += [BaselineFit(name, share, seed) for seed in (config.seeds if baseline.learned else (-1,))]
    return fits


def check_baselines(config: BaselinesConfig) -> None:
    """Refuse names and settings that nobody has.

    Raises:
        ConfigError: names the flag, and what was expected.
    """
    for name in config.baselines:
        if name not in BASELINES:
            raise ConfigError(f"--baselines {name}: expected one of {', '.join(BASELINES)}")
        settings_of(config, name)
    for entry in config.parameters:
        if entry.partition(".")[0] not in BASELINES:
            raise ConfigError(f"--parameters {entry}: expected BASELINE.NAME=VALUE, as in vsepp.margin=0.1")
    for fit in all_fits(config):
        settings_of(config, fit.baseline, fit.method)
    if any(config.listwise) and not any(BASELINES[name].listwise for name in config.baselines):
        able = [name for name, baseline in BASELINES.items() if baseline.listwise]
        raise ConfigError(f"--listwise: none of --baselines takes it; expected one of {', '.join(able)}")


def settings_of(config: BaselinesConfig, name: str, method: str = "") -> Any:
    """A baseline's settings: the defaults with what ``--parameters`` says of it, and ``--best`` of the method.

    Raises:
        ConfigError: a name or value that it does not have.
    """
    settings, changes = BASELINES[name].settings, {}
    known = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    for entry in (*config.parameters, *_best(config, method)):
        key, found, text = entry.partition("=")
        owner, _, parameter = key.partition(".")
        if owner != name:
            continue
        if not found or parameter not in known:
            raise ConfigError(
                f"--parameters {entry}: expected {name}.NAME=VALUE, NAME one of {', '.join(known) or '-'}"
            )
        changes[parameter] = _typed(entry, text, known[parameter])
    return replace(settings, **changes)


def _best(config: BaselinesConfig, method: str) -> list[str]:
    """The settings of a method in ``--best``, as entries of ``--parameters``.

    Raises:
        ConfigError: no such file, or not one that ``jobs/tune.py --target baselines`` writes.
    """
    if config.best is None or not method:
        return []
    try:
        entry = json.loads(resolve(config.best).read_text()).get(method)
        return [f"{entry['baseline']}.{name}={value}" for name, value in entry["settings"].items()] if entry else []
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ConfigError(f"--best {config.best}: expected the best.json of jobs/tune.py --target baselines") from None


def _typed(entry: str, text: str, kind: type) -> Any:
    """A value of a parameter's type, above or at 0."""
    try:
        value = kind(yaml.safe_load(text))
        whole = kind is not int or float(yaml.safe_load(text)) == value
    except (TypeError, ValueError, yaml.YAMLError):
        whole = False
    if not whole or value < 0:
        expected = "a whole number" if kind is int else "a number"
        raise ConfigError(f"--parameters {entry}: expected {expected} of at least 0")
    return value
