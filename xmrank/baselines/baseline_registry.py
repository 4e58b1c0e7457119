"""All baselines by name. A new one is a function, its settings, and a line here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from xmrank.baselines import baseline_settings as defaults
from xmrank.baselines import closed, heads
from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.towers import ProjectionTowers
from xmrank.config import BaselinesConfig, semantic
from xmrank.config.baselines import SETTINGS
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import read_json_file
from xmrank.runtime.paths import resolve

Settings = TypeVar("Settings", bound=defaults.BaselineSettings)
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


def make_solved(
    fit: Callable[[FeaturePairs, Any], ProjectionTowers], settings: Any, *, embeddings: bool = False
) -> Baseline:
    """A baseline that is solved in one go."""

    def in_one_go(pairs: FeaturePairs, chosen: Any, _training: heads.HeadTraining) -> Fitted:
        return fit(pairs, chosen), heads.BestFit()

    return Baseline(in_one_go, settings, embeddings=embeddings)


def make_trained(
    kind: Callable[[Any, FeaturePairs], heads.Objective], settings: Any, *, listwise: bool = True
) -> Baseline:
    """A baseline of projection heads under an objective."""
    return Baseline(partial(heads.train_heads, kind=kind), settings, learned=True, listwise=listwise)


BASELINES: dict[str, Baseline] = {
    "cosine": make_solved(closed.fit_cosine, defaults.CosineSettings(), embeddings=True),
    "cca": make_solved(closed.fit_cca, defaults.CcaSettings()),
    "regularised_cca": make_solved(closed.fit_regularised_cca, defaults.RegularisedSettings()),
    "kernel_cca": make_solved(closed.fit_kernel_cca, defaults.KernelSettings()),
    "dcca": make_trained(heads.Dcca, defaults.DccaSettings(), listwise=False),
    "cmpm": make_trained(heads.Cmpm, defaults.HeadSettings()),
    "cmpm_cmpc": make_trained(heads.CmpmCmpc, defaults.HeadSettings()),
    "vsepp": make_trained(heads.Vsepp, defaults.VseppSettings()),
    "infonce": make_trained(heads.Infonce, defaults.InfonceSettings()),
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


def list_fits(config: BaselinesConfig) -> list[BaselineFit]:
    """Every baseline, with every share and seed that mean something to it."""
    fits = []
    for name in config.baselines:
        baseline = BASELINES[name]
        for share in config.listwise if baseline.listwise else (0.0,):
            fits += [BaselineFit(name, share, seed) for seed in (config.seeds if baseline.learned else (-1,))]
    return fits


def check_baselines(config: BaselinesConfig) -> None:
    """Refuse settings and shares that do not exist.

    Raises:
        ConfigError: names the flag, and what was expected.
    """
    refuse_unused_settings(config)
    for fit in list_fits(config):
        settings_of(config, fit.baseline, fit.method)
    if any(config.listwise) and not any(BASELINES[name].listwise for name in config.baselines):
        able = [name for name, baseline in BASELINES.items() if baseline.listwise]
        raise ConfigError(f"--listwise: none of --baselines takes it; expected one of {', '.join(able)}")


def refuse_unused_settings(config: BaselinesConfig) -> None:
    """Refuse settings of baselines that are not fitted.

    Raises:
        ConfigError: names the flag.
    """
    for name in SETTINGS:
        if name in config.baselines:
            continue
        default = BASELINES[name].settings
        for setting, value in vars(getattr(config, name)).items():
            if value != getattr(default, setting):
                flag = f"--{name}.{setting}".replace("_", "-")
                raise ConfigError(f"{flag} {value}: {name} is not among --baselines ({', '.join(config.baselines)})")


def settings_of(config: BaselinesConfig, name: str, method: str = "") -> Any:
    """A baseline's settings: those of the configuration, with those of ``--best`` for the method.

    Args:
        config: the configuration.
        name: of the baseline.
        method: its name with the share of S-NDCG, as ``--best`` has it. Without it, ``--best`` is left out.

    Raises:
        ConfigError: ``--best`` has a setting or value that the baseline cannot have.
    """
    if name not in SETTINGS:
        return BASELINES[name].settings
    settings = getattr(config, name)
    best = read_best_settings(config).get(method, {}) if method else {}
    try:
        return with_settings(settings, best)
    except ValueError as error:
        raise ConfigError(f"--best {config.best}: {name}: {error}") from None


def with_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Settings with changes; whole numbers become floats where the setting is one.

    Raises:
        ValueError: a name or value that the settings cannot have.
    """
    typed = {}
    for key, value in changes.items():
        if not hasattr(settings, key):
            known = ", ".join(vars(settings)) or "none"
            raise ValueError(f"{key}: no such setting; expected one of {known}")
        whole = isinstance(value, int) and isinstance(getattr(settings, key), float)
        typed[key] = float(value) if whole else value
    return replace(settings, **typed)


def read_best_settings(config: BaselinesConfig) -> dict[str, dict[str, Any]]:
    """Method → settings of ``--best``, without those that were given as flags; empty without ``--best``.

    Raises:
        ConfigError: no such file, or not one that ``jobs/tune.py --target baselines`` writes.
    """
    if config.best is None:
        return {}
    best = {}
    try:
        for method, entry in read_json_file(resolve(config.best), "--best").items():
            prefix = f"{entry['baseline']}."
            settings = dict(entry["settings"])
            # A flag goes before the results of a search.
            best[method] = {key: value for key, value in settings.items() if prefix + key not in config.explicit}
    except (DataError, OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ConfigError(f"--best {config.best}: expected the best.json of jobs/tune.py --target baselines") from None
    return best


def describe_settings(config: BaselinesConfig) -> dict[str, Any]:
    """The semantic configuration: settings of baselines that are not fitted are left out, --best is its content."""
    values = semantic(config)
    for name in SETTINGS:
        if name not in config.baselines:
            del values[name]
    if config.best:
        values["best"] = read_best_settings(config)
    return values
