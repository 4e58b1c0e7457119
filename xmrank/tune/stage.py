"""The search: all points of every loss and direction, the best of them again with several seeds."""

import dataclasses
import json
from pathlib import Path

from xmrank import tracking
from xmrank.config import TuneConfig, semantic
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.runtime.directory import Manifest, StageDirectory, read_manifest
from xmrank.runtime.files import write_json
from xmrank.runtime.paths import home, resolve
from xmrank.tracking.run_tree import connect_tracking
from xmrank.train.settings import check_loss
from xmrank.train.stage import check, train
from xmrank.tune.baseline_search import tune_baselines
from xmrank.tune.points import TRACKING, PointResult, SearchFolder, best_of
from xmrank.tune.ray import SearchJob, search_optuna, search_points
from xmrank.tune.space import candidates, read_space

STAGE = "tune"
BEST = "best.json"
RESULTS = "results.json"
SHOWN = 12


def tune(config: TuneConfig) -> Manifest:
    """Search, then train the best settings of every loss and direction with the seeds of ``--repeats``.

    Only validation lists decide. A point that is done is never trained again, one that was interrupted goes on.

    Returns:
        The manifest of the rankers, which ``jobs/evaluate.py`` takes; of the search, when baselines are searched.

    Raises:
        ConfigError: a space or setting that cannot be.
        DataError: inputs that are not finished, or a loss all of whose points failed.
    """
    if config.target == "baselines":
        return tune_baselines(config)
    store, lists = EmbeddingStore.open(resolve(config.embeddings)), read_manifest(resolve(config.lists), MINE)
    base = dataclasses.replace(config.train, embeddings=config.embeddings, lists=config.lists)
    check(base, {}, store, lists)
    for loss in base.losses:
        check_loss(base, loss)
        read_space(config, loss)
    output = resolve(config.output)
    values = semantic(config)
    values["train"] = {k: v for k, v in semantic(config.train).items() if k != "seeds"}
    for name in ("repeats", "target", "baselines"):
        del values[name]
    inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint}
    stage = StageDirectory.open(output / "search", STAGE, config=values, inputs=inputs, overwrite=config.overwrite)
    parent = SearchRun(output, config, inputs)
    try:
        manifest = stage.done or search(stage, config, store, parent)
        print_best(json.loads((output / "search" / RESULTS).read_text()))
        print(f"tune: {manifest.counts['points']} points in {output / 'search'}")
        repeats = dataclasses.replace(
            base,
            seeds=config.repeats,
            best=output / "search" / BEST,
            explicit=frozenset(),  # what was searched replaces what was given
            output=output / "rankers",
            overwrite=config.overwrite,
        )
        rankers = train(repeats, parent.begin)
        parent.end()
    except BaseException:
        parent.end(failed=True)
        raise
    return rankers


def search(stage: StageDirectory, config: TuneConfig, store: EmbeddingStore, parent: "SearchRun") -> Manifest:
    """Train the points that are not done, and finish the stage."""
    points = SearchFolder(stage.directory / "points", config.seed)
    run = parent.begin()
    work = SearchJob(
        config,
        store.directory,
        resolve(config.lists),
        stage.work / "lists",
        points,
        home(),
        parent.uri,
        run,
        {"stage": STAGE, "encoder": str(store.encoder["name"])} | tracking.origin_tags(),
        stage.inputs,
    )
    try:
        results = optuna_results(work, stage) if config.search == "optuna" else point_results(work, stage)
    finally:
        close_runs(work)
    write_json(stage.directory / BEST, best_of(results))
    write_json(stage.directory / RESULTS, [vars(result) for result in results])
    failed = [{"point": r.settings, "loss": r.loss, "direction": r.direction, "reason": r.failure} for r in results]
    left_out = [entry for entry in failed if entry["reason"]]
    counts = {"points": len(results), "failed": len(left_out), "stopped": sum(r.stopped for r in results)}
    return stage.finish(counts=counts, left_out=left_out)


def point_results(work: SearchJob, stage: StageDirectory) -> list[PointResult]:
    """The results of a grid or a random search."""
    every = candidates(work.config)
    left = [candidate for candidate in every if work.points.result(candidate) is None]
    if left:
        search_points(work, left, len(every), stage.work / "ray")
    return [work.points.result(candidate) or work.points.write(candidate) for candidate in every]


def optuna_results(work: SearchJob, stage: StageDirectory) -> list[PointResult]:
    """The results of Optuna's proposals, in the order of their names: they were found in no order that is kept."""
    results = []
    for loss in work.config.train.losses:
        space = read_space(work.config, loss)
        for direction in work.config.train.directions:
            done = found(work.points, loss, direction)
            if len(done) < work.config.samples:
                search_optuna(work, loss, direction, space, done, stage.work / "ray")
            results += found(work.points, loss, direction)
    return results


def found(points: SearchFolder, loss: str, direction: str) -> list[PointResult]:
    """The results of a loss and direction that are there."""
    paths = sorted(points.folder.glob(f"{loss}-{direction}-*/result.json"))
    return [PointResult(**json.loads(path.read_text())) for path in paths]


def close_runs(work: SearchJob) -> None:
    """End the runs that nobody ended: their process may have gone."""
    for path in work.points.folder.glob(f"*/{TRACKING}"):
        run = json.loads(path.read_text())["run"]
        if tracking.status(work.uri, run) == "RUNNING":
            tracking.end(work.uri, run, failed=not (path.parent / "result.json").exists())


def print_best(rows: list[dict[str, object]]) -> None:
    """Print the best points of every loss and direction."""
    results = [PointResult(**row) for row in rows]  # type: ignore[arg-type]
    for direction, by_loss in best_of(results).items():
        for loss, settings in by_loss.items():
            mine = [r for r in results if (r.loss, r.direction) == (loss, direction)]
            value = max(r.value for r in mine if r.value is not None)
            words = ", ".join(f"{name} {value}" for name, value in settings.items())
            print(f"best {loss} {direction}: {100 * value:.1f} % of {len(mine)} points: {words}")


class SearchRun:
    """The search's MLflow run: begun when there is something to train, continued by a rerun."""

    def __init__(self, output: Path, config: TuneConfig, inputs: dict[str, str]) -> None:
        self.path, self.config, self.inputs = output / TRACKING, config, inputs
        self.known: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.uri, self.run = "", ""

    def begin(self) -> str:
        """Begin or continue the run; returns its id."""
        if not self.run:
            self.uri = connect_tracking()
            params = {"search": self.config.search, "space": " ".join(self.config.space), "seed": self.config.seed}
            tags = {"stage": STAGE} | tracking.origin_tags()
            name, resume = f"tune {self.path.parent.name}", self.known.get("parent")
            self.run = tracking.begin(
                self.uri, home(), name, resume=resume, tags=tags, params=params, inputs=self.inputs
            )
            write_json(self.path, {"parent": self.run})
        return self.run

    def end(self, *, failed: bool = False) -> None:
        """End the run, if it was begun."""
        if self.run:
            tracking.end(self.uri, self.run, failed=failed)
