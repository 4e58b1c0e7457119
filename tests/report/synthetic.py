"""The directories of the stages before a report, made up: plausible figures, small pictures, no training."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from xmrank.config import ReportConfig
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.files import write_json
from xmrank.runtime.manifest import Manifest, parse_manifest

LOSSES = ("lambdarank", "neural_ndcg", "listnet", "ranknet")
# How much clearer than the first stage a loss separates right from wrong.
SKILL = {"cosine": 0.0, "lambdarank": -0.25, "neural_ndcg": 0.45, "listnet": 0.3, "ranknet": 0.12}
COLOURS = {"red": "#c8452f", "blue": "#3566a8", "green": "#4a8f4f", "yellow": "#e0b23c", "violet": "#7c4f9b"}
SHAPES = ("circle", "square", "triangle")
SIDES = ("left", "right")
CAPTIONS = 5
FIRST_STAGE_VALIDATION = {"i2t": 0.62, "t2i": 0.66}
"""What the first stage reaches on the validation lists, by the mean that chooses epochs."""
LIST, TOP = 21, 20


@dataclass(frozen=True)
class World:
    """How large the made-up run is."""

    images: int = 40
    seeds: tuple[int, ...] = (0, 1)
    losses: tuple[str, ...] = LOSSES
    epochs: int = 10
    pictures: bool = True
    texts: bool = True
    first_caption: str | None = None
    depths: tuple[int, ...] = (TOP,)
    searched: bool = False
    refined: bool = False
    folder: str = "test"
    """Of the pictures, below the image folder."""
    row_group: int = 5000
    """Rows of the evaluation's tables that are read at once; an evaluation has about a method's."""
    images_root: str | None = None
    """What the store names as the image folder, if it is not the folder of the pictures."""


def make_run(root: Path, world: World = World()) -> ReportConfig:
    """Fill ``root`` with finished stages; returns the configuration of their report."""
    scenes = [_scene(number) for number in range(world.images)]
    embeddings = _embeddings(root, world, scenes)
    rankers = _rankers(root, world, embeddings)
    _evaluation(root, world, embeddings, rankers)
    if world.searched:
        _search(root, world, embeddings)
    return ReportConfig(
        search=root / "tuned" / "search" if world.searched else None,
        embeddings=root / "embeddings",
        rankers=root / "rankers",
        evaluation=root / "evaluation",
        output=root / "report",
        title="Ranking losses on made-up scenes",
    )


def image_id(number: int) -> str:
    return f"scene{number:03d}"


def caption_id(number: int, index: int) -> str:
    return f"{image_id(number)}#{index}"


def _scene(number: int) -> list[tuple[str, str, str]]:
    rng = np.random.default_rng(number)
    colours = rng.choice(list(COLOURS), size=2, replace=False)
    return [(str(colours[i]), SHAPES[int(rng.integers(len(SHAPES)))], SIDES[i]) for i in range(2)]


def _words(scene: list[tuple[str, str, str]], index: int) -> str:
    (a, b, _), (c, d, _) = scene
    return (
        f"a {a} {b} beside a {c} {d}",
        f"there is a {c} {d} on the right of the picture",
        f"on the left, something {a} with the outline of a {b}",
        f"two things, one {a} and one {c}",
        f"the {d} is {c} and stands to the right of the {b}",
    )[index]


def _draw(scene: list[tuple[str, str, str]], number: int, path: Path) -> None:
    rng = np.random.default_rng(1000 + number)
    shade = int(rng.integers(215, 250))
    image = Image.new("RGB", (240, 180), (shade, shade, shade - 10))
    draw = ImageDraw.Draw(image)
    for colour, shape, index in scene:
        size = int(rng.integers(32, 48))
        x, y = (70 if index == "left" else 170), int(rng.integers(70, 110))
        box = (x - size, y - size, x + size, y + size)
        if shape == "circle":
            draw.ellipse(box, fill=COLOURS[colour])
        elif shape == "square":
            draw.rectangle(box, fill=COLOURS[colour])
        else:
            draw.polygon([(x, y - size), (x - size, y + size), (x + size, y + size)], fill=COLOURS[colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)


def _embeddings(root: Path, world: World, scenes: list[Any]) -> str:
    config = {"dataset": "scenes", "model": "xmrank-tiny"} if world.pictures else {"imported": True}
    stage = StageDirectory.open(root / "embeddings", "embed", config=config, inputs={})
    numbers = range(world.images)
    locations = [f"{world.folder}/{image_id(n)}.jpg" for n in numbers]
    if world.pictures:
        for number, scene in enumerate(scenes):
            _draw(scene, number, root / "images" / locations[number])
    images = {"row": list(numbers), "image_id": [image_id(n) for n in numbers], "split": ["test"] * world.images}
    pq.write_table(
        pa.table({**images, "location": locations if world.pictures else pa.nulls(world.images, pa.string())}),
        stage.directory / "image.parquet",
    )
    pairs = [(n, index) for n in numbers for index in range(CAPTIONS)]
    texts = [_words(scenes[n], index) if world.texts else None for n, index in pairs]
    if world.first_caption is not None:
        texts[:CAPTIONS] = [world.first_caption] * CAPTIONS
    captions = {
        "row": list(range(len(pairs))),
        "caption_id": [caption_id(*pair) for pair in pairs],
        "image_id": [image_id(n) for n, _ in pairs],
        "image_row": [n for n, _ in pairs],
        "split": ["test"] * len(pairs),
        "text": pa.array(texts, pa.string()),
    }
    pq.write_table(pa.table(captions), stage.directory / "text.parquet")
    write_json(stage.directory / "encoder.json", {"name": "xmrank-tiny", "pretrained": "bundled", "dimensions": 256})
    left_out = [{"image_id": "scene900", "reason": "truncated JPEG"}] if world.pictures else []
    return stage.finish(
        counts={"images": world.images, "captions": len(pairs), "images_broken": len(left_out)},
        left_out=left_out,
        settings={"images_root": world.images_root or str(root / "images"), "dataset": "scenes"}
        if world.pictures
        else {"images_root": None},
    ).fingerprint


def _rankers(root: Path, world: World, embeddings: str) -> str:
    ranker = {"name": "context_aware", "width": 64, "layers": 2, "heads": 4, "feed_forward": 128, "dropout": 0.0}
    config = {
        "losses": list(world.losses),
        "directions": ["i2t", "t2i"],
        "seeds": list(world.seeds),
        "epochs": world.epochs,
        "batch_size": 32,
        "learning_rate": 0.001,
        "ranker": ranker,
    }
    stage = StageDirectory.open(
        root / "rankers", "train", config=config, inputs={"embeddings": embeddings, "lists": "1f" * 32}
    )
    for loss in world.losses:
        for direction in ("i2t", "t2i"):
            for seed in world.seeds:
                folder = stage.directory / "trials" / f"{loss}-{direction}-seed{seed}"
                write_json(folder / "history.json", _history(loss, direction, seed, world.epochs))
                write_json(folder / "ranker.json", ranker)
    trials = len(world.losses) * 2 * len(world.seeds)
    counts = {"trials": trials, "lists": {"i2t": 2000, "t2i": 2000}}
    return stage.finish(counts=counts, settings={"first_stage_validation": FIRST_STAGE_VALIDATION}).fingerprint


def _history(loss: str, direction: str, seed: int, epochs: int) -> dict[str, Any]:
    rng = np.random.default_rng([LOSSES.index(loss), direction == "i2t", seed])
    top, scale = 0.42 + 0.15 * SKILL[loss], {"lambdarank": 30.0, "neural_ndcg": -0.6, "ranknet": 0.6}.get(loss, 3.0)
    entries = []
    for epoch in range(1, epochs + 1):
        hit = top * (1 - 0.6 * math.exp(-epoch / 2.5)) - 0.004 * max(epoch - 6, 0) + float(rng.normal(0, 0.006))
        fall = abs(scale) * (0.25 + 0.75 * math.exp(-epoch / 3))
        entries.append(
            {
                "epoch": epoch,
                "train_loss": math.copysign(fall, scale),
                "validation_loss": math.copysign(fall * 1.12 + abs(scale) * 0.012 * max(epoch - 6, 0), scale),
                "validation_hit@1": hit,
                "validation_hit@5": min(hit + 0.3, 1),
                "validation_hit@10": min(hit + 0.45, 1),
                "validation_mean": hit + 0.25,
            }
        )
    best = max(entries, key=lambda entry: entry["validation_mean"])["epoch"]
    return {"loss": loss, "direction": direction, "seed": seed, "best_epoch": best, "epochs": entries}


def _evaluation(root: Path, world: World, embeddings: str, rankers: str) -> None:
    inputs = {"embeddings": embeddings, "lists": "1f" * 32, "rankers": rankers}
    stage = StageDirectory.open(root / "evaluation", "evaluate", config={"top_n": world.depths}, inputs=inputs)
    metrics: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    rankings: list[dict[str, Any]] = []
    for direction in ("i2t", "t2i"):
        methods = [*(["refined"] if world.refined else []), *world.losses]
        for method, seed in [("cosine", -1), *((method, seed) for method in methods for seed in world.seeds)]:
            for protocol in ("lists", *(["gallery"] if method == "cosine" else [f"top-{n}" for n in world.depths])):
                _evaluate(metrics, rankings, world, direction, method, seed, protocol)
                curves.append(_curve(metrics, world))
        for depth in world.depths:
            _evaluate(metrics, [], world, direction, "oracle", -1, f"top-{depth}")
    for name, rows in (("metrics", metrics), ("rankings", rankings)):
        pq.write_table(encoded(pd.DataFrame(rows)), stage.directory / f"{name}.parquet", row_group_size=world.row_group)
    write_json(stage.directory / "curves.json", {"rows": curves})
    write_json(stage.directory / "timing.json", {"rows": [], "depths": _depth_times()})
    write_json(stage.directory / "summary.json", {"rows": [], "split": "test", "top_n": world.depths})
    lists = {"random_candidates": 40, "hard_negatives": LIST - 1, "positives": "one", "captions": "one", "seed": 0}
    stage.finish(
        counts={"queries": {"i2t": world.images, "t2i": world.images}, "rankings": len(rankings)},
        settings={
            "candidates_per_list": {"i2t_test": LIST, "t2i_test": LIST},
            "lists_config": lists,
            "tie_rule": "expectation over random orders of equal scores",
        },
    )


def _depth_times() -> list[dict[str, Any]]:
    """Times by N; the gallery of images is smaller than 200."""
    measured = {"i2t": {10: (0.5, 0.084), 200: (12.4, 3.2)}, "t2i": {10: (0.62, 0.1), 40: (2.0, 0.5)}}
    named = {"ranker": "context_aware", "device": "cpu"}
    return [
        {"direction": direction, **named, "candidates": n, "queries": 32, "alone_ms": alone, "batched_ms": batched}
        for direction, times in measured.items()
        for n, (alone, batched) in times.items()
    ]


def _evaluate(
    metrics: list[dict[str, Any]],
    rankings: list[dict[str, Any]],
    world: World,
    direction: str,
    method: str,
    seed: int,
    protocol: str,
) -> None:
    """All queries of one method on one protocol."""
    untrained = method in ("cosine", "refined", "oracle")
    keys = {"method": method, "loss": "" if untrained else method}
    keys |= {"ranker": "" if untrained else "context_aware", "seed": np.int32(seed), "direction": direction}
    keys |= {"split": "test", "protocol": protocol}
    for number in range(world.images):
        order, relevant, scores = _ranking(world, direction, method, seed, protocol, number)
        query = image_id(number) if direction == "i2t" else caption_id(number, 0)
        hits = [candidate in relevant for candidate in order]
        for metric, value in _values(hits, len(relevant)).items():
            metrics.append(
                {**keys, "query_id": query, "metric": metric, "value": value, "positives": np.int32(len(relevant))}
            )
        rankings += [
            {**keys, "query_id": query, "candidate_id": c, "rank": np.int32(rank), "score": np.float32(score)}
            for rank, (c, score) in enumerate(zip(order, scores, strict=True), start=1)
        ]


def _curve(metrics: list[dict[str, Any]], world: World) -> dict[str, Any]:
    """The curve of the method whose values were added last, at the cut-offs of the tables."""
    last = metrics[-8 * world.images :]
    means = {kind: [_mean(last, f"{kind}@{k}") for k in (1, 5, 10)] for kind in ("hit", "recall")}
    return {**{k: v for k, v in last[0].items() if k != "value"}, "seed": int(last[0]["seed"]), "positives": 0} | {
        "k": [1, 5, 10],
        **means,
    }


def _mean(rows: list[dict[str, Any]], metric: str) -> float:
    return float(np.mean([row["value"] for row in rows if row["metric"] == metric]))


def _search(root: Path, world: World, embeddings: str) -> None:
    """A grid in which the learning rate decides almost everything."""
    inputs = {"embeddings": embeddings, "lists": "1f" * 32}
    stage = StageDirectory.open(root / "tuned" / "search", "tune", config={"search": "grid"}, inputs=inputs)
    rows = [
        {"loss": loss, "direction": direction, "settings": {"learning_rate": rate, "ranker.width": width}}
        | {"value": 0.5 + 0.1 * (rate == 0.001) + 0.002 * (width == 64), "best_epoch": 2, "epochs": 3}
        | {"stopped": False, "failure": ""}
        for loss in world.losses
        for direction in ("i2t", "t2i")
        for rate in (0.01, 0.001, 0.0001)
        for width in (32, 64)
    ]
    write_json(stage.directory / "results.json", rows)
    stage.finish(counts={"points": len(rows)})


def _ranking(
    world: World, direction: str, method: str, seed: int, protocol: str, number: int
) -> tuple[list[str], set[str], list[float]]:
    if direction == "i2t":
        items = [(n, caption_id(n, index)) for n in range(world.images) for index in range(CAPTIONS)]
        # One right caption in a list, all five in the gallery.
        items = [i for i in items if protocol != "lists" or i[0] != number or i[1].endswith("#0")]
    else:
        items = [(n, image_id(n)) for n in range(world.images)]
    right = np.array([n == number for n, _ in items])
    noise = np.random.default_rng([number, direction == "i2t"]).normal(size=len(items))
    own = np.random.default_rng([number, direction == "i2t", seed + 1, *method.encode()]).normal(size=len(items))
    lead = 2.3 if direction == "t2i" else 1.9
    first = noise + lead * right
    depth = int(protocol.removeprefix("top-")) if protocol.startswith("top") else 0
    chosen = np.argsort(-first, kind="stable")[:depth] if depth else np.arange(len(items))
    if protocol == "lists":
        wrong = np.flatnonzero(~right)
        chosen = np.concatenate([np.flatnonzero(right), wrong[np.argsort(-first[wrong])[: LIST - 1]]])
    score = first if method == "cosine" else 0.8 * noise + 0.7 * own + (lead + SKILL.get(method, 0)) * right
    score = right.astype(float) if method == "oracle" else score
    order = chosen[np.argsort(-score[chosen], kind="stable")]
    relevant = {items[i][1] for i in np.flatnonzero(right)}
    return [items[i][1] for i in order], relevant, [float(score[i]) for i in order]


def _values(hits: list[bool], positives: int) -> dict[str, float]:
    ranks = [rank for rank, hit in enumerate(hits, start=1) if hit]
    hits_at = {k: sum(rank <= k for rank in ranks) for k in (1, 5, 10)}
    ideal = sum(1 / math.log2(1 + rank) for rank in range(1, min(positives, 10) + 1))
    return {
        **{f"hit@{k}": float(hits_at[k] > 0) for k in hits_at},
        **{f"recall@{k}": hits_at[k] / positives for k in hits_at},
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "ndcg@10": sum(1 / math.log2(1 + rank) for rank in ranks if rank <= 10) / ideal,
    }


def encoded(frame: pd.DataFrame) -> pa.Table:
    """As evaluate writes it: strings dictionary-encoded."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = table.column(index).cast(pa.string()).dictionary_encode()
            table = table.set_column(index, field.name, column)
    return table


def read_text(config: ReportConfig, name: str) -> str:
    """A file of the report."""
    return (Path(config.output) / name).read_text()


def rewrite_manifest(directory: Path, **changes: dict[str, Any]) -> Manifest:
    """Change entries of a finished stage's manifest, as if it had been run elsewhere or otherwise."""
    written = parse_manifest(directory)
    changed = {name: getattr(written, name) | entries for name, entries in changes.items()}
    manifest = dataclasses.replace(written, **changed).with_fingerprint()
    write_json(directory / "manifest.json", vars(manifest))
    return manifest
