"""The embedding stage: what is done is compared with its data, the rest is encoded or imported."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from xmrank.config import EmbedConfig, semantic
from xmrank.datasets.account import account_of
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.locations import find_absent, find_changed
from xmrank.datasets.reader_settings import ArraySettings, ClipRetrievalSettings, ReaderSettings
from xmrank.datasets.readers import read_dataset
from xmrank.embed.clip_retrieval import import_clip_retrieval
from xmrank.embed.fetching import local_imports
from xmrank.embed.importing import import_embeddings
from xmrank.embed.model_source import (
    BUNDLED,
    CHECKPOINT_SUFFIXES,
    FOLDER,
    TINY,
    check_model,
    find_model,
    needs_quick_gelu,
    standard_model,
)
from xmrank.embed.reuse import refuse_own_output
from xmrank.embed.store import STAGE, EmbeddingStore
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_file
from xmrank.runtime.manifest import MANIFEST, Manifest
from xmrank.runtime.paths import below, resolve

DATASET_FIELDS = ("dataset", "max_broken")
"""Fields that only choose or check the data: what they chose is in the data set's fingerprint."""
EQUAL_IMAGES = "equal_images"
"""In the manifest's settings: the first groups of images with equal bytes in different splits, image id → split."""


def embed_or_inspect(config: EmbedConfig) -> Manifest | Path:
    """Embed a data set or, with ``--inspect``, look at it only; returns the store's manifest, or the page."""
    if config.inspect:
        # Imported here: what it needs for a page, an embedding does not.
        from xmrank.embed.inspection import inspect_dataset

        return inspect_dataset(config)
    return embed(config)


def embed(config: EmbedConfig) -> Manifest:
    """Embed a data set, or import embeddings; a finished store is left as it is, an unfinished one is completed.

    Returns:
        The store's manifest.

    Raises:
        ConfigError: an unknown model or tag.
        DataError: bad data, or a finished store whose images have changed since.
    """
    output = resolve(config.output)
    # Imports need no encoder: they are checked and copied into the store's form.
    if isinstance(config.dataset, ArraySettings):
        with local_imports(config.dataset) as arrays:
            tokens = config.token_settings
            manifest = import_embeddings(arrays, output, overwrite=config.overwrite, tokens=tokens)
    elif isinstance(config.dataset, ClipRetrievalSettings):
        with local_imports(config.dataset) as export:
            manifest = import_clip_retrieval(export, output, max_broken=config.max_broken, overwrite=config.overwrite)
    else:
        manifest = embed_images(with_standard_model(config), config.dataset, output)
    warn_of_equal_images(manifest)
    if account := account_of(manifest.settings):
        print(f"embed: {account.describe()}")
    left = f", {len(manifest.left_out)} left out" if manifest.left_out else ""
    print(f"embed: {manifest.counts['images']} images, {manifest.counts['captions']} captions{left} in {output}")
    return manifest


def embed_images(config: EmbedConfig, source: ReaderSettings, output: Path) -> Manifest:
    """Encode the data set of a reader, unless that is done."""
    if config.overwrite or not (output / MANIFEST).exists():
        # open_clip, torch and Ray take seconds to import.
        from xmrank.embed.encoding import embed_dataset, load_configured

        # In this order: a wrong model is known before a data set is drawn or read. No name keeps the encoder here, so
        # that its memory is free when it has been described.
        return embed_dataset(config, load_configured(config), read_dataset(source, config.max_broken), output)
    check_model(config.model, config.pretrained, init_seed=config.init_seed)
    dataset = read_dataset(source, config.max_broken)
    manifest = find_embedded(config, dataset, output)
    if manifest is None:
        # Of something else, or damaged.
        from xmrank.embed.encoding import embed_dataset

        manifest = embed_dataset(config, None, dataset, output)
    return manifest


def find_embedded(config: EmbedConfig, dataset: Dataset, output: Path) -> Manifest | None:
    """The manifest of a finished store of this data set, compared with its files; None for all else."""
    refuse_unfit(config, dataset, output)
    inputs = {"dataset": dataset.fingerprint}
    manifest = StageDirectory.find_finished(output, STAGE, config=encoder_settings(config), inputs=inputs)
    if manifest:
        # The data set's fingerprint does not include the images' bytes: hashing them would mean reading them all.
        refuse_changed(EmbeddingStore.open(output), dataset)
    return manifest


def refuse_unfit(config: EmbedConfig, dataset: Dataset, output: Path) -> None:
    """Raise for what can be refused before the directory is touched: missing images, ``--reuse`` of the output."""
    refuse_missing(dataset, config.max_broken)
    if config.reuse:
        refuse_own_output(resolve(config.reuse), output)


def warn_of_equal_images(manifest: Manifest) -> None:
    """Print a line where images have the same bytes: what is trained on is tested with, or is its own wrong answer."""
    account = account_of(manifest.settings)
    if account and account.copies and (within := account.copies["within"]):
        print(
            f"embed: warning: {within} images have the same bytes as another image of their split; they count as "
            "different images, each as a wrong answer for the captions of the other"
        )
    groups = manifest.settings.get(EQUAL_IMAGES)
    if groups:
        first = " = ".join(f"{image} ({split})" for image, split in groups[0].items())
        print(
            f"embed: warning: {manifest.counts['equal_across_splits']} images have the same bytes as an image of "
            f"another split, the first: {first}"
        )


def with_standard_model(config: EmbedConfig) -> EmbedConfig:
    """The configuration with the model as open_clip writes it, and a line where that is another name."""
    model = standard_model(config.model)
    # A path only becomes absolute.
    if model != config.model and "/" not in model:
        print(f"embed: --model {config.model} is open_clip's {model}")
    return replace(config, model=model)


def encoder_settings(config: EmbedConfig) -> dict[str, Any]:
    """The semantic configuration. What comes from files is identified by their content, not their path."""
    ignored = (*DATASET_FIELDS, "tokens", *config.TOKEN_FIELDS)
    values = {name: value for name, value in semantic(config).items() if name not in ignored}
    # Under one name, and only where tokens are kept: their settings do not change a store without them.
    if config.token_settings:
        values["tokens"] = asdict(config.token_settings)
    source = find_model(config.model)
    if source.architecture:
        # Renaming its folder changes nothing either.
        values["model"] = "local-dir" if source.identifier.startswith(FOLDER) else source.name
        values["architecture"] = source.architecture
    if needs_quick_gelu(source.identifier, config.pretrained):
        values["quick_gelu"] = True
    checkpoint = source.weights
    if names_checkpoint(config):
        checkpoint = resolve(config.pretrained or "")
    elif uses_bundled(config):
        checkpoint = BUNDLED / f"{TINY}.safetensors"
    # Moving or renaming a checkpoint changes nothing; training it further does.
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
    """Raise DataError when more image files are missing than ``max_broken``, before anything is encoded."""
    locations = dataset.images["location"].to_pylist()
    addresses = [below(dataset.root, location) for location in locations]
    missing = [locations[index] for index in find_absent(addresses)]
    if len(missing) > max_broken * len(dataset.images):
        more = f" ({len(missing) - 1} more like it; --max-broken {max_broken})" if len(missing) > 1 else ""
        raise DataError(f'{dataset.name}: image "{missing[0]}" is not in {dataset.root}{more}')


def refuse_changed(store: EmbeddingStore, dataset: Dataset) -> None:
    """Raise DataError when images of a finished store have another size now: the store is not theirs any more."""
    addresses = [below(dataset.root, location) for location in store.images["location"].to_pylist()]
    if others := find_changed(addresses, store.images["bytes"].to_pylist()):
        raise DataError(
            f"{addresses[others[0]]}: has changed since it was embedded in {store.directory} (--overwrite to redo it)"
        )
