"""The grid of LCM's settings, searched on validation alone."""

import itertools
import json
import math
from dataclasses import replace
from typing import Any

from xmrank.config import SupervisedConfig
from xmrank.config.supervised import read_grid
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.files import write_json
from xmrank.runtime.progress import Progress
from xmrank.supervised.method_runs import GridPoint, best_point, make_point
from xmrank.supervised.set_readers import SetSource

RESULTS = "grid.json"


def search_grid(
    stage: StageDirectory, config: SupervisedConfig, sources: list[SetSource]
) -> dict[str, SupervisedConfig]:
    """The configuration to use on each set: the best point of the grid, or the given one without a grid."""
    if not config.grid:
        return {source.key: config for source in sources}
    points = {source.key: points_of(stage, config, source) for source in sources}
    every = [point for own in points.values() for point in own]
    left = [point for point in every if not point.path.exists()]
    with Progress("supervised (grid)", len(every), len(every) - len(left)) as progress:
        for _ in run_tasks(make_point, left, config.workers) if left else ():
            progress.advance()
    results = {key: [json.loads(point.path.read_text()) for point in own] for key, own in points.items()}
    chosen = {key: best_point(own, config) for key, own in results.items()}
    best = {key: {**settings_of(own), "neighbours": own.neighbours} for key, own in chosen.items()}
    write_json(stage.directory / RESULTS, {"points": results, "best": best})
    return chosen


def points_of(stage: StageDirectory, config: SupervisedConfig, source: SetSource) -> list[GridPoint]:
    """All combinations of the grid but for those whose a : b : c are in proportion to an earlier one's: the pivots are
    signs, so these are the same training."""
    grid = read_grid(config.grid)
    neighbours = tuple(int(k) for k in grid.pop("neighbours", [config.neighbours]))
    base = settings_of(config)
    points: dict[tuple[Any, ...], GridPoint] = {}
    for values in itertools.product(*grid.values()):
        settings: dict[str, Any] = base | dict(zip(grid, values, strict=True))
        path = stage.work / "grid" / f"{source.key}-{'-'.join(f'{v:g}' for v in settings.values())}.json"
        own = replace(config, lcm=replace(config.lcm, **settings))
        points.setdefault(proportion(settings), GridPoint(source, own, neighbours, path))
    return list(points.values())


def proportion(settings: dict[str, float]) -> tuple[float, ...]:
    """What of the settings decides a training: a : b : c, and sigma."""
    weights = [settings[name] for name in "abc"]
    largest = max(weights) or 1.0
    # Rounded: 0.1/0.01 and 1/0.1 differ in their last bits.
    return (*(0.0 if not w else round(math.log(w / largest), 6) + 1000 for w in weights), settings["sigma"])


def settings_of(config: SupervisedConfig) -> dict[str, float]:
    """The settings that a grid can search, but for the number of neighbours."""
    return {name: getattr(config.lcm, name) for name in ("a", "b", "c", "sigma")}
