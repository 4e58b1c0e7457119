"""The stage's MLflow runs: a parent, and a child for every run; logged by the driver as runs are done."""

import json
from statistics import fmean
from typing import Any

from xmrank import tracking
from xmrank.config import DIRECTIONS, SupervisedConfig, semantic
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.files import write_json
from xmrank.runtime.paths import home
from xmrank.supervised.method_runs import MethodRun
from xmrank.train.stage import TRACKING, connect_tracking

PARENT = "parent"


class SupervisedRuns:
    """The MLflow runs of a stage directory; their ids are kept beside its output, so that a rerun continues them."""

    def __init__(self, stage: StageDirectory, config: SupervisedConfig) -> None:
        self.path, self.inputs = stage.directory / TRACKING, stage.inputs
        self.ids: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.uri = connect_tracking()
        self.tags = {"stage": stage.name} | tracking.origin_tags()
        params = {k: v for k, v in semantic(config).items() if k not in ("lcm", "dscmr", "clip4cmr")}
        name = f"supervised {stage.directory.parent.name}"
        self.parent = tracking.begin(
            self.uri, home(), name, resume=self.ids.get(PARENT), tags=self.tags, params=params, inputs=self.inputs
        )
        self._keep(PARENT, self.parent)

    def log(self, run: MethodRun) -> None:
        """Log a run that is done, once."""
        if run.name in self.ids:
            return
        tags = {**self.tags, "dataset": run.source.name, "method": run.method}
        source = f"data {run.source.key}"
        own = tracking.begin(
            self.uri,
            home(),
            run.name,
            parent=self.parent,
            tags=tags,
            params={"features": run.source.features, "seed": run.seed, **semantic(run.config)},
            inputs={source: self.inputs[source]},
        )
        result, timing = run.read("result.json"), run.read("timing.json")
        for number, entry in enumerate(result["history"], start=1):
            metrics = {name if name == "validation_map" else f"loss/{name}": value for name, value in entry.items()}
            tracking.log_metrics(self.uri, own, metrics, step=number)
        times = {f"{place}/ms_per_query": value for place, value in timing["milliseconds"].items()}
        costs = {"cost/train_seconds": timing["seconds"], "best_round": result["best_round"]}
        tracking.log_metrics(self.uri, own, {**means(result["rows"]), **times, **costs})
        tracking.end(self.uri, own)
        self._keep(run.name, own)

    def end(self, *, failed: bool) -> None:
        """End the parent."""
        tracking.end(self.uri, self.parent, failed=failed)

    def _keep(self, name: str, run_id: str) -> None:
        self.ids[name] = run_id
        write_json(self.path, self.ids)


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
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
