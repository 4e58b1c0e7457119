"""Encoding a data set: plan the shards, encode those that are missing, assemble the store."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from xmrank.config import EmbedConfig
from xmrank.datasets.account import DataAccount, keep_copies_together
from xmrank.datasets.dataset import Dataset
from xmrank.embed.assembling import (
    StoreRows,
    find_equal_across_splits,
    join_reports,
    list_broken,
    make_image_table,
    write_store,
)
from xmrank.embed.decoding import PixelTransform
from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.embed.planning import EarlierStore, ShardPlan, find_earlier, make_plan, refuse_other_reuse
from xmrank.embed.preparing import Preparer
from xmrank.embed.ray import choose_batch_size, encode_shards, fit_on_worker
from xmrank.embed.reuse import open_reusable
from xmrank.embed.shards import Shard, read_report
from xmrank.embed.stage import (
    EQUAL_IMAGES,
    encoder_settings,
    names_checkpoint,
    refuse_changed,
    refuse_unfit,
    uses_bundled,
)
from xmrank.embed.store import STAGE, EmbeddingStore
from xmrank.embed.token_assembling import write_tokens
from xmrank.embed.token_fitting import choose_sample
from xmrank.embed.token_planning import TokenPlan, plan_tokens
from xmrank.embed.token_projection import PROJECTION, read_projections, write_projections
from xmrank.embed.token_shards import TokenRecipe
from xmrank.runtime.bf16_support import warn_of_slow_bf16
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.pieces import record_piece
from xmrank.runtime.progress import Progress
from xmrank.runtime.redaction import redact_uri
from xmrank.runtime.storage import measure_files

EQUAL_SHOWN = 20


def load_configured(config: EmbedConfig) -> Encoder:
    """The encoder of a configuration, on this process's CPU."""
    return load_encoder(config.model, config.pretrained, init_seed=config.init_seed, precision=config.precision)


def embed_dataset(config: EmbedConfig, encoder: Encoder | None, dataset: Dataset, output: Path) -> Manifest:
    """Embed a data set that has been read.

    Args:
        encoder: it, where it is loaded already.
    """
    reuse = resolve(config.reuse) if config.reuse else None
    refuse_unfit(config, dataset, output)
    stage = StageDirectory.open(
        output,
        STAGE,
        config=encoder_settings(config),
        inputs={"dataset": dataset.fingerprint},
        overwrite=config.overwrite,
    )
    if stage.done:
        # The data set's fingerprint does not include the images' bytes: hashing them would mean reading them all.
        refuse_changed(EmbeddingStore.open(output), dataset)
        return stage.done
    about, pixels, tokens = describe_encoder(encoder or load_configured(config), config, dataset)
    # Workers load their own: this one's memory is theirs.
    del encoder
    # The other store must be of the same encoder, which is known only now.
    known = open_reusable(reuse, about, config.dtype) if reuse else None
    plan = make_plan(dataset, config.shard_size, stage.work, known)
    earlier = find_earlier(plan, stage.work)
    refuse_other_reuse(earlier.settings, known, output)
    settings = worker_settings(config)
    preparer = make_preparer(config, pixels, earlier.settings, known)
    if earlier.missing:
        if config.precision == "bf16":
            warn_of_slow_bf16("embed: --precision bf16")
        if tokens:
            tokens.budget.refuse_small_disk(stage.directory, measure_files(stage.work))
            print(tokens.budget.describe())
        # Only now: finding the batch size loads the model on a worker.
        preparer = set_batch_size(preparer, settings, config.shard_size)
        if tokens:
            settings["tokens"] = find_projections(stage, settings, preparer, tokens, dataset)
        run_shards(plan, earlier, settings, preparer, stage.work, config, dataset)
    if config.token_settings:
        about["tokens"] = TokenRecipe(config.token_settings, stage.directory).describe()
    write_json(stage.directory / "encoder.json", about)
    return finish_store(stage, dataset, plan, preparer, config)


def describe_encoder(
    encoder: Encoder, config: EmbedConfig, dataset: Dataset
) -> tuple[dict[str, Any], PixelTransform, TokenPlan | None]:
    """What the store records about the encoder, its transform, and what its tokens will be, if they are kept."""
    tokens = plan_tokens(encoder, config.token_settings, dataset) if config.token_settings else None
    return make_encoder_entry(encoder, config), encoder.pixels, tokens


def find_projections(
    stage: StageDirectory, settings: dict[str, Any], preparer: Preparer, tokens: TokenPlan, dataset: Dataset
) -> TokenRecipe:
    """How tokens are made, with the axes that an interrupted run has fitted, or that are fitted now."""
    recipe: TokenRecipe = settings["tokens"]
    projections = read_projections(stage.directory)
    if projections is None:
        sample = choose_sample(dataset, tokens.shape.narrowed(recipe.settings), recipe.settings.seed)
        projections = fit_on_worker(settings, preparer, tokens.shape, sample) if sample else {}
        # Written first: shards that a resumed run adds are kept along the same axes.
        write_projections(stage.directory, projections)
        record_piece(stage.work, "token_projection", [stage.directory / PROJECTION])
    for side, projection in projections.items():
        print(f"embed: {side} tokens: {len(projection.axes)} axes keep {projection.explained:.1%} of the variance")
    return TokenRecipe(recipe.settings, stage.directory)


def worker_settings(config: EmbedConfig) -> dict[str, Any]:
    """What a worker needs to load the encoder and to write its output."""
    names = ("model", "pretrained", "init_seed", "precision", "dtype", "threads", "compile")
    settings = {name: getattr(config, name) for name in names}
    settings["tokens"] = TokenRecipe(config.token_settings) if config.token_settings else None
    if names_checkpoint(config):
        settings["pretrained"] = str(resolve(settings["pretrained"]))  # workers may have another current directory
    return settings


def make_preparer(
    config: EmbedConfig, pixels: PixelTransform, earlier: dict[str, Any], known: EmbeddingStore | None
) -> Preparer:
    """Prepares the shards. Its batch size is the given one, or that of an interrupted run, or 0: not chosen yet."""
    size = config.batch_size or earlier.get("batch_size", 0)
    settings = {"batch_size": size, "reuse": known.fingerprint if known else None}
    return Preparer(pixels, config.model, size, known.directory if known else None, settings)


def set_batch_size(preparer: Preparer, settings: dict[str, Any], largest: int) -> Preparer:
    """The preparer with a batch size, chosen now unless it has one."""
    if preparer.batch_size:
        return preparer
    size = choose_batch_size(settings, preparer, largest)
    return replace(preparer, batch_size=size, settings=preparer.settings | {"batch_size": size})


def run_shards(
    plan: ShardPlan,
    earlier: EarlierStore,
    settings: dict[str, Any],
    preparer: Preparer,
    work: Path,
    config: EmbedConfig,
    data: Dataset,
) -> None:
    """Encode the shards that are missing. Stops as soon as too many images are broken."""
    broken, limit = earlier.broken, config.max_broken * len(data.images)
    # Shards of an interrupted run count as done in the progress.
    done = plan.count - sum(map(len, earlier.missing))
    with Progress("embed", plan.count, done) as progress:
        for result in encode_shards(earlier.missing, settings, preparer, work, config.workers):
            broken += int(result["broken"])
            progress.advance(int(result["items"]), note=f"{broken} broken" if broken else "")
            if broken > limit:
                break
    if broken > limit:
        first = find_first_broken(plan.shards, work, data)
        raise DataError(f"{data.name}: {first} ({broken} in all; --max-broken {config.max_broken})")


def find_first_broken(shards: list[Shard], work: Path, data: Dataset) -> str:
    """The first broken image that any report names, with its reason."""
    for shard in shards:
        report = read_report(shard, work)
        if report and report.broken:
            row = min(report.broken)
            return f'image "{data.images["location"][row]}": {report.broken[row]}'
    raise AssertionError("no report names a broken image")


def finish_store(
    stage: StageDirectory, dataset: Dataset, plan: ShardPlan, preparer: Preparer, config: EmbedConfig
) -> Manifest:
    """Write the store from the shards, without the broken images and their captions, and finish the stage."""
    facts = join_reports(plan.select_kind("image"), stage.work)
    rows = StoreRows.without_broken(dataset, facts.broken)
    images = make_image_table(dataset.images, rows.images, facts)
    if dataset.drawn:
        images = keep_copies_together(images)
    items = write_store(stage.directory, stage.work, dataset, plan, images, rows)
    counts: dict[str, int] = {
        "images": len(rows.images),
        "captions": len(rows.captions),
        "broken_images": len(facts.broken),
    }
    if config.tokens:
        counts |= write_tokens(stage.directory, stage.work, plan, items)
    equal = find_equal_across_splits(images)
    counts["equal_across_splits"] = sum(len(group) for group in equal)
    if config.reuse:
        counts["reused_images"] = len(facts.copied)
        # Counted as captions, of which several may share a text.
        counts["reused_captions"] = int(plan.copied_texts[plan.text_of[rows.captions]].sum())
    reasons = Counter(dataset.reasons) + Counter(facts.broken.values())
    account = DataAccount.from_tables(images, dataset.captions.take(rows.captions), reasons, dataset.unused)
    return stage.finish(
        counts=counts,
        left_out=dataset.left_out + list_broken(dataset, facts.broken),
        settings={
            # Later stages read it again, with credentials that they take from the environment.
            "images_root": redact_uri(str(dataset.root), ""),
            "dataset": dataset.name,
            "threads": config.threads,
            "account": asdict(account),
            **({EQUAL_IMAGES: equal[:EQUAL_SHOWN]} if equal else {}),
            **preparer.settings,
        },
    )


def make_encoder_entry(encoder: Encoder, config: EmbedConfig) -> dict[str, Any]:
    """The content of ``encoder.json``."""
    return {
        "name": encoder.name,
        "pretrained": "bundled" if uses_bundled(config) else encoder_settings(config)["pretrained"],
        "init_seed": config.init_seed,
        "dimensions": encoder.dimensions,
        "weights_hash": encoder.weights_hash,
        "preprocessing": encoder.preprocessing,
        "precision": config.precision,
        **({"architecture": encoder.architecture} if encoder.architecture else {}),
    }
