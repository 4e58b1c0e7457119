"""The supervised stage: read the sets, search settings, run every method with every seed, join what they wrote."""

import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.config import SupervisedConfig, semantic
from xmrank.runtime.cluster import run_tasks
from xmrank.runtime.directory import Manifest, StageDirectory
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import write_json, write_table
from xmrank.runtime.paths import resolve
from xmrank.runtime.progress import Progress
from xmrank.supervised.grid import search_grid
from xmrank.supervised.labelled_set import LabelledSet
from xmrank.supervised.logged import log_run, make_run_tree
from xmrank.supervised.method_runs import MethodRun, make_run
from xmrank.supervised.methods import settings_of
from xmrank.supervised.set_readers import SetSource, read_source, sources_of

STAGE = "supervised"
RESULTS, TIMING, METRICS, TSNE = "results.json", "timing.json", "metrics.parquet", "tsne.json"


def supervised(config: SupervisedConfig) -> Manifest:
    """Train and measure methods on labelled sets; runs and grid points that an interrupted call finished are kept.

    Returns:
        The manifest of ``results`` in the output: results.json, metrics.parquet (every query's values), models, and
        where they were asked for tsne.json and grid.json.

    Raises:
        ConfigError: no set.
        DataError: a set that cannot be read.
    """
    if not config.data:
        raise ConfigError("--data: expected one or more labelled sets, each as NAME=PATH")
    sources = sources_of(config.data, config.labels, captions=config.captions, seed=config.split_seed)
    sets = {}
    for source in sources:
        data = read_source(source)
        print(f"supervised: {source.key}: {data.beside_table_1()}")
        sets[source.key] = about(data)
    values = {**semantic(config), "sets": sorted(sets)}
    inputs = {f"data {key}": str(entry["fingerprint"]) for key, entry in sets.items()}
    output = resolve(config.output) / "results"
    stage = StageDirectory.open(output, STAGE, config=values, inputs=inputs, overwrite=config.overwrite)
    manifest = stage.done or run_all(stage, config, sources, sets)
    print(f"supervised: {manifest.counts['runs']} runs on {manifest.counts['sets']} sets in {output}")
    return manifest


def about(data: LabelledSet) -> dict[str, object]:
    """What the report says of a set."""
    sizes = {**data.sizes, "classes": len(data.classes)}
    widths = {"image": data.widths[0], "text": data.widths[1]}
    kinds = {"several_labels": data.several_labels, "notes": list(data.notes), "classes": list(data.classes)}
    names = {"name": data.name, "features": data.features, "fingerprint": data.fingerprint}
    return {**names, "sizes": sizes, "widths": widths, **kinds}


def run_all(
    stage: StageDirectory, config: SupervisedConfig, sources: list[SetSource], sets: dict[str, dict[str, object]]
) -> Manifest:
    """Make what is not made, log it, join it and finish the stage."""
    tracked = make_run_tree(stage, config)
    tracked.begin_parent()
    failed = True
    try:
        settings = search_grid(stage, config, sources)
        runs = plan(stage, config, sources, settings)
        left = [run for run in runs if not run.done]
        by_name = {run.name: run for run in runs}
        with Progress("supervised (runs)", len(runs), len(runs) - len(left)) as progress:
            for name in run_tasks(make_run, left, config.workers) if left else ():
                log_run(tracked, by_name[name])
                progress.advance(note=name)
        for run in runs:
            log_run(tracked, run)  # those that a killed call made and did not log
        join(stage, runs, sets)
        failed = False
    finally:
        tracked.end(failed=failed)
    return stage.finish(counts={"runs": len(runs), "sets": len(sources)}, settings={"threads": 1})


def plan(
    stage: StageDirectory, config: SupervisedConfig, sources: list[SetSource], settings: dict[str, SupervisedConfig]
) -> list[MethodRun]:
    """Every method with every seed on every set; embeddings once, for nothing in them is random."""
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
        for seed in (config.runs[:1] if method == "embeddings" else config.runs)
    ]


def join(stage: StageDirectory, runs: list[MethodRun], sets: dict[str, dict[str, object]]) -> None:
    """One file of each kind out of the parts of all runs."""
    table = pa.concat_tables([pq.read_table(run.part("metrics.parquet")) for run in runs])
    write_table(stage.directory / METRICS, table)
    write_json(stage.directory / TIMING, [run.read("timing.json") for run in runs])
    drawn = {run.source.key: run.read("tsne.json") for run in runs if run.part("tsne.json").exists()}
    if drawn:
        write_json(stage.directory / TSNE, drawn)
    write_json(stage.directory / RESULTS, {"sets": sets, "runs": [run.read("result.json") for run in runs]})
