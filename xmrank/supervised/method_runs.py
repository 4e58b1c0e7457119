"""One run: a method with a seed on a set, trained, measured and written; and one point of a grid."""

import json
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file
from sklearn.manifold import TSNE

from xmrank.config import SupervisedConfig
from xmrank.config.supervised_methods import METHOD_SETTINGS
from xmrank.metrics import mean_over_queries
from xmrank.runtime.files import atomic_path, write_json, write_table
from xmrank.runtime.pieces import record_piece
from xmrank.supervised.labelled_set import LabelledSet, with_label_noise
from xmrank.supervised.map_evaluation import CUT, ExtraSearches, SearchResult, measure_searches
from xmrank.supervised.method_training import FittedMethod
from xmrank.supervised.methods import fit_method
from xmrank.supervised.peak_memory import with_peak_memory
from xmrank.supervised.set_readers import SetSource, read_source

METRICS = pa.schema(
    {
        "dataset": pa.string(),
        "features": pa.string(),
        "method": pa.string(),
        "search": pa.string(),
        "seed": pa.int32(),
        "direction": pa.string(),
        "query": pa.int32(),
        "metric": pa.string(),
        "value": pa.float64(),
    }
)
PERPLEXITY = 30.0


@dataclass(frozen=True)
class MethodRun:
    """A method with a seed on a set.

    Attributes:
        config: with the settings that are used on this set.
        work: the folder of what the stage joins.
        models: the folder of what is kept.
        pictures: whether the common space is drawn.
    """

    source: SetSource
    config: SupervisedConfig
    method: str
    seed: int
    work: Path
    models: Path
    pictures: bool

    @property
    def name(self) -> str:
        """Of its files and its MLflow run."""
        return f"{self.source.key}-{self.method}-run{self.seed}"

    def path_of(self, kind: str) -> Path:
        """A file of its work: metrics.parquet, timing.json, tsne.json, result.json; the last is written last."""
        return self.work / self.name / kind

    @property
    def done(self) -> bool:
        """Whether an earlier run finished it."""
        return self.path_of("result.json").exists()

    def read_part(self, kind: str) -> Any:
        """The value of a JSON part."""
        return json.loads(self.path_of(kind).read_text())


def make_run(run: MethodRun) -> str:
    """Train and measure a run and write its parts; returns its name."""
    use_one_thread()
    data, own = cached_set(run.source), run.config
    if own.label_noise:
        data = with_label_noise(data, own.label_noise, own.split_seed)
    extra = ExtraSearches(own.label_shares, own.neighbour_counts, own.split_seed)
    started = time.perf_counter()
    # Only the training is timed: a search is timed on its own.
    fitted, peak = with_peak_memory(lambda: fit_method(run.method, data, run.config, run.seed))
    seconds = time.perf_counter() - started
    results = measure_searches(data, fitted, own.neighbours, extra)
    keys = {"dataset": data.name, "features": data.features, "method": run.method, "seed": run.seed}
    write_table(run.path_of("metrics.parquet"), metrics_table(keys, results))
    costs = {"seconds": seconds, "milliseconds": list_milliseconds(results)}
    costs |= {"parameters": count_numbers(fitted), "peak_mib": peak}
    write_json(run.path_of("timing.json"), {**keys, **costs})
    if fitted.module is not None:
        save_model(run, fitted)
    if run.pictures:
        write_json(run.path_of("tsne.json"), draw_pictures(data, fitted, run.config.tsne, run.seed))
    rows = [row_of(entry, data) for entry in results]
    about = {"best_round": fitted.best_round, "history": fitted.history, "rows": rows}
    # Written last: a run is done when its result is there.
    write_json(run.path_of("result.json"), {**keys, **about})
    files = [path for folder in (run.work, run.models) for path in sorted((folder / run.name).glob("*"))]
    record_piece(run.work.parent, run.name, files)
    return run.name


def count_numbers(fitted: FittedMethod) -> int:
    """How many numbers embed both modalities: weights, and what a kernel or a standardisation keeps."""
    if fitted.module is None:
        return 0
    tensors = {}
    for name, tensor in fitted.module.state_dict().items():
        # Labels' and adversaries' networks are for training alone; a layer that both sides share counts once.
        if name.split(".")[0] in ("image", "text", "towers"):
            tensors[tensor.data_ptr()] = tensor.numel()
    return sum(tensors.values())


@lru_cache(maxsize=2)
def cached_set(source: SetSource) -> LabelledSet:
    """A process's sets, read once for all runs that it makes."""
    return read_source(source)


def use_one_thread() -> None:
    """Results must not depend on the machine's number of cores, and runs go side by side."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def metrics_table(keys: dict[str, Any], results: list[SearchResult]) -> pa.Table:
    """The values of every query: average precision, and of stage 1 the reciprocal rank of its true label."""
    parts = []
    for entry in results:
        values = {"ap": entry.precision, f"ap@{CUT}": entry.top_precision}
        if entry.reciprocal_rank is not None:
            values["mrr"] = entry.reciprocal_rank
        for metric, column in values.items():
            own = {**keys, "search": entry.search, "direction": entry.direction, "metric": metric}
            count = len(column)
            columns = {name: pa.array([value] * count, METRICS.field(name).type) for name, value in own.items()}
            columns |= {"query": pa.array(np.arange(count), pa.int32()), "value": pa.array(column)}
            parts.append(pa.table([columns[name] for name in METRICS.names], schema=METRICS))
    return pa.concat_tables(parts)


def row_of(results: SearchResult, data: LabelledSet) -> dict[str, Any]:
    """The means of one search of one direction, over all queries and over those of each class."""
    mean = mean_over_queries(results.precision)
    row: dict[str, Any] = {"direction": results.direction, "search": results.search, "ranking_sha256": results.digest}
    row |= {"map": number_or_none(mean.mean), "queries": mean.counted, "excluded": mean.excluded}
    row["map_at_50"] = number_or_none(mean_over_queries(results.top_precision).mean)
    row["top_precision"] = [number_or_none(value) for value in results.curves.top]
    row["precision_at_recall"] = [number_or_none(value) for value in results.curves.recall]
    if results.reciprocal_rank is not None:
        row["mrr"] = number_or_none(mean_over_queries(results.reciprocal_rank).mean)
    classes = [results.precision[data.query.labels[:, column]] for column in range(len(data.classes))]
    row["classes"] = [number_or_none(mean_over_queries(values).mean) for values in classes]
    return row


def number_or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def list_milliseconds(results: list[SearchResult]) -> dict[str, float]:
    """Time a query took in each search and direction."""
    return {f"{entry.direction}/{entry.search}": entry.milliseconds for entry in results}


def save_model(run: MethodRun, fitted: FittedMethod) -> None:
    """Write the weights and what rebuilds the module."""
    assert fitted.module is not None
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in fitted.module.state_dict().items()}
    folder = run.models / run.name
    with atomic_path(folder / "model.safetensors") as temporary:
        # Layers that both sides share stand twice in the state; safetensors refuses shared memory.
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, temporary)
    settings = getattr(run.config, METHOD_SETTINGS[run.method], None)
    about = {"method": run.method, "seed": run.seed, "settings": vars(settings) if settings else {}}
    write_json(folder / "model.json", about)


def draw_pictures(data: LabelledSet, fitted: FittedMethod, count: int, seed: int) -> list[dict[str, Any]]:
    """The three pictures of the paper's Figure 2, as points in the plane: t-SNE of each search space.

    What stage 1 searches (training and query items of one modality, images and texts), and what ranking by distance
    searches (query images and query texts); of each kind ``count`` items at most, drawn by seed.

    Returns:
        Of each picture the title and, for each kind, its name, points [items, 2] and first labels (−1: none).
    """
    generator = np.random.default_rng(seed)
    rows = {
        part: np.sort(generator.permutation(len(items))[:count])
        for part, items in (("train", data.train), ("query", data.query))
    }
    spaces = {
        (part, side): fitted.embed(side, getattr(getattr(data, part), side)[rows[part]])
        for part in rows
        for side in ("image", "text")
    }
    chosen = {
        "Stage 1, image queries": (("train", "image"), ("query", "image")),
        "Stage 1, text queries": (("train", "text"), ("query", "text")),
        "Ranking by distance": (("query", "image"), ("query", "text")),
    }
    made = []
    for title, kinds in chosen.items():
        # Both kinds go through one t-SNE, so that their distances can be compared.
        together = np.concatenate([spaces[kind] for kind in kinds])
        # t-SNE needs a perplexity well below the number of points.
        perplexity = min(PERPLEXITY, (len(together) - 1) / 3)
        plane = TSNE(random_state=seed, perplexity=perplexity, init="pca").fit_transform(together)
        groups, start = [], 0
        for part, side in kinds:
            points = plane[start : start + len(rows[part])]
            start += len(points)
            labels = getattr(data, part).labels[rows[part]]
            first = np.where(labels.any(axis=1), labels.argmax(axis=1), -1)
            name = f"{'training' if part == 'train' else 'query'} {side}s"
            groups.append({"name": name, "points": np.round(points, 2).tolist(), "labels": first.tolist()})
        made.append({"title": title, "groups": groups})
    return made
