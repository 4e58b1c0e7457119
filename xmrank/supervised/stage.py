"""The supervised stage: read the sets, run every method with every seed, join what they wrote, write the report."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from xmrank.config import SupervisedConfig, semantic
from xmrank.config.printing import format_config
from xmrank.config.supervised_methods import SOLVED
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import read_json_file, read_parquet, write_json, write_table
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.progress import Progress
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.method_runs import MethodRun, make_run
from xmrank.supervised.methods import settings_of, with_method_settings
from xmrank.supervised.report_page import report_results
from xmrank.supervised.result_files import METRICS, RESULTS, TIMING, TSNE
from xmrank.supervised.run_logging import log_run, make_run_tree
from xmrank.supervised.set_readers import SetSource, list_sources_of, read_source
from xmrank.tracking.run_tree import RunTree

STAGE = "supervised"


def supervised(config: SupervisedConfig) -> Manifest:
    """Train and measure methods on labelled sets, and write a report; what an interrupted call finished is kept.

    Returns:
        The manifest of ``results`` in the output: results.json, metrics.parquet (every query's values), models, and
        tsne.json unless ``--tsne`` is 0.

    Raises:
        ConfigError: no set, or a ``--best`` that is of none of them.
        DataError: a set that cannot be read.
    """
    if not config.data:
        raise ConfigError("--data: expected one or more labelled sets, each as NAME=PATH")
    sources = list_sources_of(config)
    best = read_best_settings(config, [source.key for source in sources])
    sets = {}
    for source in sources:
        data = read_source(source)
        print(f"supervised: {source.key}: {data.beside_table_1()}")
        sets[source.key] = describe_set(data)
    # The paths of the sets do not count: their contents do, as inputs.
    values = {**semantic(config), "sets": sorted(sets)} | ({"best": best} if best else {})
    # Settings of a method that is not run must not change the fingerprint.
    for name in config.idle_settings():
        del values[name]
    inputs = {f"data {key}": str(entry["fingerprint"]) for key, entry in sets.items()}
    output = resolve(config.output)
    stage = StageDirectory.open(output / "results", STAGE, config=values, inputs=inputs, overwrite=config.overwrite)
    runs = make_run_tree(stage, config)
    with runs.open():
        manifest = stage.done or run_all(stage, config, sources, sets, best, runs)
    print(f"supervised: {manifest.counts['runs']} runs on {manifest.counts['sets']} sets in {stage.directory}")
    report_results(manifest, output, title=config.title, overwrite=config.overwrite)
    return manifest


def read_best_settings(config: SupervisedConfig, sets: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Set → method → settings in ``--best``, without those that were given as flags; empty without ``--best``.

    Raises:
        ConfigError: no such file, not one that ``jobs/tune.py --target supervised`` writes, or of none of the sets.
    """
    if config.best is None:
        return {}
    path: Path = resolve(config.best)
    best: dict[str, dict[str, dict[str, Any]]] = {}
    try:
        for title, entry in read_json_file(path, "--best").items():
            # The search names a group of LCM by its set, and others by set and method.
            name, _, method = title.partition(" ")
            best.setdefault(name, {})[method or "lcm"] = dict(entry["settings"])
        for settings in best.values():
            with_method_settings(config, settings)
    except ConfigError as error:
        raise ConfigError(f"--best {config.best}: {error}") from None
    except (DataError, OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ConfigError(f"--best {config.best}: expected the best.json of jobs/tune.py --target supervised") from None
    if not set(best) & set(sets):
        raise ConfigError(f"--best {config.best}: is of {', '.join(best) or 'no set'}; expected one of --data")
    # A flag goes before the results of a search.
    return {name: {m: without_flags(m, own, config) for m, own in best.get(name, {}).items()} for name in sets}


def without_flags(method: str, settings: dict[str, Any], config: SupervisedConfig) -> dict[str, Any]:
    """The settings that no flag names; of LCM, neighbours is a flag of its own."""
    given = {name.removeprefix(f"{method}.") for name in config.explicit}
    return {key: value for key, value in settings.items() if key not in given}


def describe_set(data: LabelledSet) -> dict[str, object]:
    """What the report says of a set."""
    sizes = {**data.sizes, "classes": len(data.classes)}
    widths = {"image": data.widths[0], "text": data.widths[1]}
    kinds = {"several_labels": data.several_labels, "notes": list(data.notes), "classes": list(data.classes)}
    names = {"name": data.name, "features": data.features, "fingerprint": data.fingerprint}
    return {**names, "sizes": sizes, "widths": widths, **kinds}


def run_all(
    stage: StageDirectory,
    config: SupervisedConfig,
    sources: list[SetSource],
    sets: dict[str, dict[str, object]],
    best: dict[str, dict[str, dict[str, Any]]],
    tracked: RunTree,
) -> Manifest:
    """Make what is not made, log it, join it and finish the stage."""
    tracked.begin_parent()
    tracked.log_config(format_config(config, STAGE))
    settings = {source.key: with_method_settings(config, best.get(source.key, {})) for source in sources}
    runs = plan_runs(stage, config, sources, settings)
    left = [run for run in runs if not run.done]
    # run_tasks yields in the order of its items, and each result is the name of a run.
    by_name = {run.name: run for run in runs}
    with Progress("supervised (runs)", len(runs), len(runs) - len(left)) as progress:
        for name in run_tasks(make_run, left, config.workers) if left else ():
            log_run(tracked, by_name[name])
            progress.advance(note=name)
    for run in runs:
        log_run(tracked, run)  # those that a killed call made and did not log
    join_results(stage, runs, sets)
    return stage.finish(counts={"runs": len(runs), "sets": len(sources)}, settings={"threads": 1})


def plan_runs(
    stage: StageDirectory, config: SupervisedConfig, sources: list[SetSource], settings: dict[str, SupervisedConfig]
) -> list[MethodRun]:
    """Every method with every seed on every set; a method that nothing random enters, once."""
    return [
        MethodRun(
            source,
            settings_of(method, settings[source.key]),
            method,
            seed,
            stage.work / "runs",
            stage.directory / "models",
            pictures=method == "lcm" and seed == config.runs[0] and config.tsne > 0,
        )
        for source in sources
        for method in config.methods
        for seed in (config.runs[:1] if method in SOLVED else config.runs)
    ]


def join_results(stage: StageDirectory, runs: list[MethodRun], sets: dict[str, dict[str, object]]) -> None:
    """One file of each kind out of the parts of all runs."""
    # In the order of the plan, so that the file does not depend on which run ended first.
    table = pa.concat_tables([read_parquet(run.path_of("metrics.parquet")) for run in runs])
    write_table(stage.directory / METRICS, table)
    write_json(stage.directory / TIMING, [run.read_part("timing.json") for run in runs])
    drawn = {run.source.key: run.read_part("tsne.json") for run in runs if run.path_of("tsne.json").exists()}
    if drawn:
        write_json(stage.directory / TSNE, drawn)
    write_json(stage.directory / RESULTS, {"sets": sets, "runs": [run.read_part("result.json") for run in runs]})
