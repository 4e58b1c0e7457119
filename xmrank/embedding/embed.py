"""The embedding stage: plan the shards, encode those that are missing, put the store together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from xmrank.config import EmbedConfig, semantic
from xmrank.datasets import Dataset, read
from xmrank.datasets.locations import absent, changed
from xmrank.embedding.clip_retrieval import import_clip_retrieval
from xmrank.embedding.encoder import BUNDLED, CHECKPOINT_SUFFIXES, TINY, Encoder, load_encoder
from xmrank.embedding.importing import import_embeddings
from xmrank.embedding.ray_stage import encode_shards
from xmrank.embedding.shards import Shard, ShardReport, forget_changed, read_report
from xmrank.embedding.store import STAGE, EmbeddingStore
from xmrank.errors import DataError
from xmrank.files import sha256_file, write_json, write_rows, write_table
from xmrank.paths import below, resolve
from xmrank.progress import Progress
from xmrank.stage import Manifest, Stage

DATASET_FIELDS = ("dataset", "split_field", "held_out", "columns", "scenes", "max_broken")
"""Fields that only choose or check the data; what they chose is in the data set's fingerprint."""


def embed(config: EmbedConfig) -> Manifest:
    """Embed a data set, or import embeddings; a finished store is left as it is, a half-made one is completed.

    Returns:
        The store's manifest.

    Raises:
        ConfigError: an unknown data set, model or tag.
        DataError: bad data, or a finished store whose images have changed since.
    """
    output = resolve(config.output)
    if config.import_clip_retrieval:
        manifest = import_clip_retrieval(config)
    elif config.imports:
        manifest = import_embeddings(config)
    else:
        manifest = embed_dataset(config, read(config), output)
    left = f", {len(manifest.left_out)} left out" if manifest.left_out else ""
    print(f"embed: {manifest.counts['images']} images, {manifest.counts['captions']} captions{left} in {output}")
    return manifest


def embed_dataset(config: EmbedConfig, dataset: Dataset, output: Path) -> Manifest:
    """Embed a data set that has been read."""
    refuse_missing(dataset, config.max_broken)
    stage = Stage.open(
        output,
        STAGE,
        config=encoder_settings(config),
        inputs={"dataset": dataset.fingerprint},
        overwrite=config.overwrite,
    )
    if stage.done:
        refuse_changed(EmbeddingStore.open(output), dataset)
        return stage.done
    settings = {name: getattr(config, name) for name in ("model", "pretrained", "init_seed", "precision", "dtype")}
    settings |= {"threads": config.threads, "batch_size": config.batch_size}
    if names_checkpoint(config):
        settings["pretrained"] = str(resolve(settings["pretrained"]))  # workers may have another current directory
    encoder = load_encoder(config.model, config.pretrained, init_seed=config.init_seed, precision=config.precision)
    shards = plan_shards(dataset, config.shard_size)
    run_shards(shards, settings, stage.work, config, dataset)
    return put_together(stage, dataset, shards, encoder, config)


def encoder_settings(config: EmbedConfig) -> dict[str, Any]:
    """The semantic configuration; a checkpoint counts by its content, not its place, also the one of xmrank-tiny."""
    values = {k: v for k, v in semantic(config).items() if k not in DATASET_FIELDS}
    checkpoint = None
    if names_checkpoint(config):
        checkpoint = resolve(config.pretrained or "")
    elif uses_bundled(config):
        checkpoint = BUNDLED / f"{TINY}.safetensors"
    if checkpoint and checkpoint.is_file():
        values["pretrained"] = f"sha256:{sha256_file(checkpoint)}"
    return values


def names_checkpoint(config: EmbedConfig) -> bool:
    """Whether ``--pretrained`` is the path of a file, not a tag."""
    return config.pretrained is not None and config.pretrained.endswith(CHECKPOINT_SUFFIXES)


def uses_bundled(config: EmbedConfig) -> bool:
    """Whether the encoder is the one that comes with xmrank."""
    return config.model == TINY and config.pretrained in (None, "bundled")


def refuse_missing(dataset: Dataset, max_broken: float) -> None:
    """Refuse a data set of which too many image files are missing, before anything is encoded."""
    locations = dataset.images["location"].to_pylist()
    missing = [locations[i] for i in absent([below(dataset.root, location) for location in locations])]
    if len(missing) > max_broken * len(dataset.images):
        more = f" ({len(missing) - 1} more like it; --max-broken {max_broken})" if len(missing) > 1 else ""
        raise DataError(f'{dataset.name}: image "{missing[0]}" is not in {dataset.root}{more}')


def refuse_changed(store: EmbeddingStore, dataset: Dataset) -> None:
    """Refuse to pass a finished store off as that of images whose files have another size by now."""
    addresses = [below(dataset.root, location) for location in store.images["location"].to_pylist()]
    if others := changed(addresses, store.images["bytes"].to_pylist()):
        raise DataError(
            f"{addresses[others[0]]}: has changed since it was embedded in {store.directory} (--overwrite to redo it)"
        )


def plan_shards(dataset: Dataset, size: int) -> list[Shard]:
    """All shards of a data set, images first: they are the slow ones."""
    addresses = [below(dataset.root, location) for location in dataset.images["location"].to_pylist()]
    texts = dataset.captions["text"].to_pylist()
    images = [Shard("image", i // size, i, addresses[i : i + size]) for i in range(0, len(addresses), size)]
    return images + [Shard("text", i // size, i, texts[i : i + size]) for i in range(0, len(texts), size)]


def run_shards(shards: list[Shard], settings: dict[str, Any], work: Path, config: EmbedConfig, data: Dataset) -> None:
    """Encode the shards that have no report yet; stops as soon as too many images are broken."""
    for shard in shards:
        forget_changed(shard, work)
    missing = [shard for shard in shards if not shard.report_path(work).exists()]
    broken = sum(len(report.broken) for shard in shards if (report := read_report(shard, work)))
    items = sum(len(shard.items) for shard in shards)
    limit = config.max_broken * len(data.images)
    done = items - sum(len(shard.items) for shard in missing)
    with Progress("embed", items, done) as progress:
        for result in encode_shards(missing, settings, work, config.workers) if missing else ():
            broken += int(result["broken"])
            progress.advance(int(result["items"]), note=f"{broken} broken" if broken else "")
            if broken > limit:
                break
    if broken > limit:
        raise DataError(
            f"{data.name}: {first_broken(shards, work, data)} ({broken} in all; --max-broken {config.max_broken})"
        )


def first_broken(shards: list[Shard], work: Path, data: Dataset) -> str:
    """The first broken image that any report names, with its reason."""
    for shard in shards:
        report = read_report(shard, work)
        if report and report.broken:
            row = min(report.broken)
            return f'image "{data.images["location"][row]}": {report.broken[row]}'
    raise AssertionError("no report names a broken image")


def put_together(
    stage: Stage, dataset: Dataset, shards: list[Shard], encoder: Encoder, config: EmbedConfig
) -> Manifest:
    """Join the shards' arrays without the broken images and their captions, and write the tables of rows."""
    reports = {(s.kind, s.number): report for s in shards if (report := read_report(s, stage.work))}
    broken = {row: why for report in reports.values() for row, why in report.broken.items()}
    sound = np.setdiff1d(np.arange(len(dataset.images)), list(broken))
    new_row = np.full(len(dataset.images), -1, np.int64)
    new_row[sound] = np.arange(len(sound))
    image_of = new_row[pa.compute.index_in(dataset.captions["image_id"], dataset.images["image_id"]).to_numpy()]
    kept = np.flatnonzero(image_of >= 0)
    for kind, rows in (("image", sound), ("text", kept)):
        paths = [s.array_path(stage.work) for s in shards if s.kind == kind]
        write_side(stage.directory / f"{kind}.npy", paths, rows, encoder.dimensions, config.dtype)
    image_reports = [reports["image", s.number] for s in shards if s.kind == "image"]
    write_table(stage.directory / "image.parquet", image_table(dataset.images, sound, image_reports))
    write_table(stage.directory / "text.parquet", caption_table(dataset.captions, kept, image_of[kept]))
    write_json(stage.directory / "encoder.json", describe(encoder, config))
    left_out = dataset.left_out + left_out_images(dataset, broken)
    return stage.finish(
        counts={"images": len(sound), "captions": len(kept), "broken_images": len(broken)},
        left_out=left_out,
        settings={"images_root": str(dataset.root), "dataset": dataset.name, "threads": config.threads},
    )


def write_side(path: Path, parts: list[Path], rows: np.ndarray, dimensions: int, dtype: str) -> None:
    """Copy the chosen rows of consecutive parts into one ``.npy`` file, one part in memory at a time."""
    write_rows(path, chosen_rows(parts, rows), (len(rows), dimensions), np.dtype(dtype))


def chosen_rows(parts: list[Path], rows: np.ndarray) -> Iterator[np.ndarray]:
    """The chosen rows of each part; the parts' rows are numbered on from part to part."""
    start = 0
    for part in parts:
        array = np.load(part, allow_pickle=False)
        yield array[rows[(rows >= start) & (rows < start + len(array))] - start]
        start += len(array)


def image_table(images: pa.Table, rows: np.ndarray, reports: list[ShardReport]) -> pa.Table:
    """The table of image rows, with the size and hash of every file as it was read."""
    images = images.append_column("bytes", pa.array([b for r in reports for b in r.bytes], pa.int64()))
    images = images.append_column("sha256", pa.array([h for r in reports for h in r.sha256], pa.string()))
    return with_rows(images.take(rows))


def caption_table(captions: pa.Table, rows: np.ndarray, image_rows: np.ndarray) -> pa.Table:
    """The table of caption rows."""
    return with_rows(captions.take(rows).append_column("image_row", pa.array(image_rows, pa.int32())))


def with_rows(table: pa.Table) -> pa.Table:
    """The table with its row numbers as first column."""
    return table.add_column(0, "row", pa.array(range(len(table)), pa.int32())).combine_chunks()


def describe(encoder: Encoder, config: EmbedConfig) -> dict[str, Any]:
    """What the store records of its encoder."""
    return {
        "name": encoder.name,
        "pretrained": "bundled" if uses_bundled(config) else encoder_settings(config)["pretrained"],
        "init_seed": config.init_seed,
        "dimensions": encoder.dimensions,
        "weights_hash": encoder.weights_hash,
        "preprocessing": encoder.preprocessing,
        "precision": config.precision,
    }


def left_out_images(dataset: Dataset, broken: dict[int, str]) -> list[dict[str, Any]]:
    """One entry an image that could not be read, with the number of its captions that went with it."""
    per_image = pa.compute.value_counts(dataset.captions["image_id"]).to_pylist()
    captions = {entry["values"]: entry["counts"] for entry in per_image}
    ids = dataset.images["image_id"].to_pylist()
    return [
        {"image_id": ids[row], "reason": reason, "captions": captions.get(ids[row], 0)}
        for row, reason in sorted(broken.items())
    ]
