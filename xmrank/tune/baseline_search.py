"""The search over settings of baselines: every point is one fit, and the validation lists decide."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmrank import tracking
from xmrank.baselines.baseline_features import BaselineFeatures, fingerprints
from xmrank.baselines.fitting import FittingData
from xmrank.baselines.heads import HeadTraining
from xmrank.baselines.registry import (
    BASELINES,
    BaselineFit,
    check_baselines,
    describe_settings,
    list_fits,
    settings_of,
    with_settings,
)
from xmrank.config import BaselinesConfig, TuneConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.directory import Manifest, StageDirectory, read_manifest
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import write_json
from xmrank.runtime.paths import home, resolve
from xmrank.runtime.progress import Progress
from xmrank.tracking.run_tree import connect_tracking
from xmrank.tune.space import POINT_STREAM, NumberRange, Space, grid, read_values

STAGE = "tune"
BEST, RESULTS = "best.json", "results.json"
METRIC = "validation_mean"


@dataclass(frozen=True)
class BaselinePoint:
    """One fit of a search.

    Attributes:
        config: with its settings among the parameters, and absolute paths.
        result: the file that its figures go to.
        uri, parent, home: of MLflow.
    """

    config: BaselinesConfig
    fit: BaselineFit
    settings: dict[str, Any]
    result: Path
    uri: str
    parent: str
    home: Path


def tune_baselines(config: TuneConfig) -> Manifest:
    """Fit every point that is not done, and write the best settings of each baseline for ``baselines.py --best``.

    Returns:
        The manifest of the search.

    Raises:
        ConfigError: a space or setting that cannot be.
        DataError: inputs that are not finished, or a baseline all of whose points failed.
    """
    base = dataclasses.replace(config.baselines, embeddings=resolve(config.embeddings), lists=resolve(config.lists))
    check_baselines(base)
    spaces = {fit: baseline_space(config, base, fit.baseline) for fit in searched(config, base)}
    store, lists = EmbeddingStore.open(base.embeddings), read_manifest(base.lists, "mine")
    BaselineFeatures.open(base, store)
    inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint, **fingerprints(base)}
    output = resolve(config.output)
    values: dict[str, Any] = {
        "target": config.target,
        "search": config.search,
        "space": config.space,
        "samples": config.samples,
    }
    values |= {"seed": config.seed, "baselines": {k: v for k, v in describe_settings(base).items() if k != "seeds"}}
    stage = StageDirectory.open(output / "search", STAGE, config=values, inputs=inputs, overwrite=config.overwrite)
    manifest = stage.done or search(stage, config, base, spaces)
    for name, entry in json.loads((stage.directory / BEST).read_text()).items():
        told = ", ".join(f"{key} {value}" for key, value in entry["settings"].items())
        print(f"best {name}: {100 * entry['value']:.1f} % of {entry['points']} points: {told}")
    print(f"tune: {manifest.counts['points']} points in {stage.directory}")
    return manifest


def searched(config: TuneConfig, base: BaselinesConfig) -> list[BaselineFit]:
    """Every baseline, and each of its shares of S-NDCG, with the search's seed."""
    return list_fits(dataclasses.replace(base, seeds=(config.seed,)))


def baseline_space(config: TuneConfig, base: BaselinesConfig, name: str) -> Space:
    """What is searched for a baseline: entries of its own, and those without an owner that it knows.

    Raises:
        ConfigError: an entry that is no name and values, or that no baseline of the search has.
    """
    if config.search == "optuna" or config.scheduler != "none":
        raise ConfigError("--search, --scheduler: baselines are searched by grid or random, without a scheduler")
    if not config.space:
        raise ConfigError("--space: nothing to search; expected NAME=VALUES, as in vsepp.margin=[0.1,0.2]")
    space: Space = {}
    for entry in config.space:
        key, found, text = entry.partition("=")
        owner, dot, parameter = key.rpartition(".")
        known = {n for n in base.baselines if hasattr(BASELINES[n].settings, parameter) and owner in ("", n)}
        values = read_values(entry, text) if found else None
        if values is None or not known or (dot and not owner):
            raise ConfigError(f"--space {entry}: expected NAME=[VALUE,...], uniform(a,b) or log(a,b) with NAME or "
                              "BASELINE.NAME a setting of --baselines.baselines")  # fmt: skip
        if isinstance(values, NumberRange) and config.search == "grid":
            raise ConfigError(f"--space {entry}: a grid needs values, a range is for --search random")
        if name in known:
            space[parameter] = values
            for value in values if isinstance(values, list) else [values.low, values.high]:
                with_point(base, name, {parameter: value})
    return space


def with_point(base: BaselinesConfig, name: str, settings: dict[str, Any]) -> BaselinesConfig:
    """The configuration with some settings of a baseline.

    Raises:
        ConfigError: a name or value that the baseline cannot have.
    """
    if not settings:
        return base
    try:
        return dataclasses.replace(base, **{name: with_settings(getattr(base, name), settings)})
    except ValueError as error:
        raise ConfigError(f"--space {name}.{error}") from None


def points_of(config: TuneConfig, space: Space) -> list[dict[str, Any]]:
    """The points of one baseline; one without settings where nothing is searched for it."""
    if config.search == "grid" or not space:
        return grid(space)
    generator = np.random.default_rng([config.seed, POINT_STREAM])
    drawn = [generator.random(len(space)) for _ in range(config.samples)]
    return [
        {
            name: values.at(share) if isinstance(values, NumberRange) else values[int(share * len(values))]
            for (name, values), share in zip(space.items(), shares, strict=True)
        }
        for shares in drawn
    ]


def search(
    stage: StageDirectory, config: TuneConfig, base: BaselinesConfig, spaces: dict[BaselineFit, Space]
) -> Manifest:
    """Fit the points that are not done, and finish the stage."""
    uri = connect_tracking()
    tags = {"stage": STAGE} | tracking.origin_tags()
    parent = tracking.begin(uri, home(), f"tune {stage.directory.parent.name}", tags=tags, inputs=stage.inputs)
    points = [
        BaselinePoint(with_point(base, fit.baseline, settings), fit, settings, path, uri, parent, home())
        for fit, space in spaces.items()
        for settings in points_of(config, space)
        for path in [stage.directory / "points" / f"{fit.method}-{digest(settings)}.json"]
    ]
    left = [point for point in points if not point.result.exists()]
    try:
        with Progress("search (points)", len(points), len(points) - len(left)) as progress:
            for _ in run_tasks(fit_point, left, config.workers) if left else ():
                progress.advance()
    finally:
        tracking.end(uri, parent, failed=any(not point.result.exists() for point in points))
    results = [json.loads(point.result.read_text()) for point in points]
    write_json(stage.directory / RESULTS, results)
    write_json(stage.directory / BEST, best_of(results))
    failed = [{"point": r["name"], "reason": r["failure"]} for r in results if r["failure"]]
    return stage.finish(counts={"points": len(points), "failed": len(failed)}, left_out=failed)


def digest(settings: dict[str, Any]) -> str:
    """A short name for settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def fit_point(point: BaselinePoint) -> None:
    """Fit one point and write its figures."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    material, baseline = FittingData(point.config), BASELINES[point.fit.baseline]
    validation, settings = material.validation(point.fit), settings_of(point.config, point.fit.baseline)
    params = {**vars(point.fit), **vars(settings)}
    run = tracking.begin(point.uri, point.home, point.result.stem, parent=point.parent, params=params)
    failure, figures = "", {}
    try:
        training = HeadTraining(point.fit.seed, device, validation.figures, point.fit.listwise)
        towers, best = baseline.fit(material.pairs(point.fit), settings, training)
        figures = best.epochs[best.number - 1] if best.epochs else validation.figures(towers)
        tracking.log_metrics(point.uri, run, {k.replace("@", "_at_"): v for k, v in figures.items()})
    except DataError as error:
        failure = str(error)
    result = {"name": point.fit.method, "baseline": point.fit.baseline, "settings": point.settings}
    write_json(point.result, {**result, "value": figures.get(METRIC), "figures": figures, "failure": failure})
    tracking.end(point.uri, run, failed=bool(failure))


def best_of(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Method → its baseline, the settings of the highest value (the earliest on ties), the value, the points.

    Raises:
        DataError: all points of a method failed.
    """
    best: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(result["name"] for result in results):
        own = [result for result in results if result["name"] == name]
        done = [result for result in own if not result["failure"]]
        if not done:
            raise DataError(f"{name}: every point failed, the first with: {own[0]['failure']}")
        first = max(done, key=lambda result: result["value"])
        best[name] = {key: first[key] for key in ("baseline", "settings", "value")} | {"points": len(own)}
    return best
