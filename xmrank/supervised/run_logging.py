"""A method's run in MLflow: its history, means, times and cost; logged by the driver as runs are done."""

from statistics import fmean
from typing import Any

from xmrank.config import DIRECTIONS, SupervisedConfig, semantic
from xmrank.config.supervised_methods import METHOD_SETTINGS
from xmrank.runtime.directory import StageDirectory
from xmrank.supervised.method_runs import MethodRun
from xmrank.tracking.run_tree import RunTree


def make_run_tree(stage: StageDirectory, config: SupervisedConfig) -> RunTree:
    """The stage's runs: a parent, and a child for every method, set and seed."""
    params = {k: v for k, v in semantic(config).items() if k not in METHOD_SETTINGS.values()}
    name = f"supervised {stage.directory.parent.name}"
    return RunTree(stage.directory, stage.name, name=name, params=params, inputs=stage.inputs)


def log_run(runs: RunTree, run: MethodRun) -> None:
    """Log a run that is done, once."""
    # A call may have been killed between the keeping of the run's id and its beginning.
    if run.name in runs.ids and runs.journal(run.name).has_ended(runs.ids[run.name]):
        return
    result, timing = run.read_part("result.json"), run.read_part("timing.json")
    runs.begin_child(
        run.name,
        tags={"dataset": run.source.name, "method": run.method},
        params={"features": run.source.features, "seed": run.seed, **settings_of_run(run)},
        inputs=[f"data {run.source.key}"],
        seconds=timing["seconds"],
    )
    history = []
    for number, entry in enumerate(result["history"], start=1):
        metrics = {name if name == "validation_map" else f"loss/{name}": value for name, value in entry.items()}
        history.append((number, metrics))
    runs.log_history(run.name, history)
    times = {f"{search}/ms_per_query": value for search, value in timing["milliseconds"].items()}
    costs = {"cost/train_seconds": timing["seconds"], "best_round": result["best_round"]}
    if timing["peak_mib"] is not None:
        costs["cost/train_peak_memory_mb"] = timing["peak_mib"]
    runs.log_metrics(run.name, {**average_rows(result["rows"]), **times, **costs})
    runs.end_child(run.name)


def settings_of_run(run: MethodRun) -> dict[str, Any]:
    """The semantic configuration of a run, without the settings of other methods."""
    others = set(METHOD_SETTINGS.values()) - {METHOD_SETTINGS[run.method]}
    return {name: value for name, value in semantic(run.config).items() if name not in others}


def average_rows(rows: list[dict[str, Any]]) -> dict[str, float]:
    """A run's means by MLflow names: i2t/two_stage/map, i2t/two_stage/mrr, average/two_stage/map."""
    values = {
        f"{row['direction']}/{row['search']}/{metric}": row[metric]
        for row in rows
        for metric in ("map", "mrr")
        if row.get(metric) is not None
    }
    for search in {row["search"] for row in rows}:
        both = [values.get(f"{direction}/{search}/map") for direction in DIRECTIONS]
        if all(value is not None for value in both):
            values[f"average/{search}/map"] = fmean(value for value in both if value is not None)
    return values
