"""Checks before anything is ranked: queries, gallery, ranker and encoder must fit each other."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from xmrank.config.common import Direction
from xmrank.config.embed import TokenSettings
from xmrank.config.rank import RankConfig
from xmrank.embed.model_source import FOLDER, HUB, ModelSource, find_model, standard_model
from xmrank.embed.store import EmbeddingStore, encoder_name, identify_encoder
from xmrank.rank.query_set import FLAG, KIND_DIRECTIONS, Kind, QuerySet
from xmrank.rank.results import SIDES
from xmrank.rank.trained_rankers import MODEL_URI
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import sha256_file
from xmrank.runtime.paths import resolve
from xmrank.train.checkpoint_json import read_about
from xmrank.train.trials import RANKER_JSON


def gallery_rows(store: EmbeddingStore, direction: Direction, split: str | None) -> np.ndarray:
    """The rows that can be retrieved, int64 ascending: of captions for i2t, of images for t2i."""
    # A caption belongs to the split of its image.
    images = np.arange(len(store.image)) if split is None else store.image_rows(split)
    return np.flatnonzero(np.isin(store.image_of_caption, images)) if direction == "i2t" else images


def direction_of_ranker(config: RankConfig) -> Direction | None:
    """The direction of ``--ranker`` when it is a ranker's folder; None for anything else."""
    if config.ranker is None or config.ranker.startswith(MODEL_URI):
        return None
    # The output of a training has rankers of both directions.
    directory = resolve(config.ranker)
    return read_about(directory)["direction"] if (directory / RANKER_JSON).is_file() else None


def direction_of_queries(queries: QuerySet, wanted: Direction | None) -> Direction:
    """The direction of retrieval: i2t for images, t2i for captions.

    Args:
        queries: what they are.
        wanted: the direction of ``--direction`` or of the ranker.

    Raises:
        ConfigError: embeddings without a wanted direction, or queries of the other direction.
    """
    own = KIND_DIRECTIONS.get(queries.kind, wanted)
    if own is None:
        raise ConfigError("--direction: the queries are embeddings; expected i2t (of images) or t2i (of captions)")
    if wanted and own != wanted:
        raise ConfigError(f"--direction: the queries are {SIDES[own][0]}, the ranker's or the flag's is {wanted}")
    return own


def check_request(
    config: RankConfig,
    store: EmbeddingStore,
    about: dict[str, Any],
    queries: QuerySet,
    direction: Direction,
    source: str,
) -> None:
    """Refuse a ranker, split or queries that do not fit the gallery.

    Args:
        about: what the ranker's JSON says.
        source: the ranker as it was given.

    Raises:
        ConfigError: a flag that does not fit.
        DataError: a ranker or queries of another encoder, or a ranker of other tokens.
    """
    # A ranker is trained for one direction: its queries are embeddings of one side.
    if about["direction"] != direction:
        raise ConfigError(f"--ranker {source}: its direction is {about['direction']}, the queries' is {direction}")
    check_encoder(store, about, source)
    check_query_tokens(store, about, queries.kind, source)
    if config.split is not None and config.split not in store.splits():
        raise ConfigError(f"--split {config.split}: the gallery's splits are {', '.join(store.splits())}")
    if queries.embeddings is not None and queries.embeddings.shape[1] != store.dimensions:
        given = queries.embeddings.shape[1]
        raise DataError(f"{config.queries}: embeddings of {given} dimensions, the gallery's have {store.dimensions}")


def find_token_settings(store: EmbeddingStore) -> TokenSettings | None:
    """How the tokens of a store were made; None: it has none, or they were imported."""
    settings = store.manifest.config.get("tokens") or {}
    # Of imported tokens, a store knows their width and number format only.
    if settings.keys() != {field.name for field in fields(TokenSettings)}:
        return None
    return TokenSettings(**settings)


def check_query_tokens(store: EmbeddingStore, about: dict[str, Any], kind: Kind, source: str) -> None:
    """Refuse a ranker that reads tokens where those of the queries and of the gallery do not fit it.

    Args:
        store: the gallery.
        about: what the ranker's JSON says.
        kind: of the queries.
        source: the ranker as it was given.

    Raises:
        ConfigError: queries or a gallery without tokens, or a gallery whose tokens were imported.
        DataError: a ranker of tokens that were made otherwise.
    """
    if not about.get("tokens"):
        return
    reads = f"{about['ranker']} reads tokens"
    if not store.has_tokens:
        raise ConfigError(
            f"--ranker {source}: {reads}, and {store.label} has none; make it with `xmrank embed --tokens`"
        )
    if find_token_settings(store) is None:
        raise ConfigError(
            f"--ranker {source}: {reads}, and those of {store.label} were imported: nothing says how to make those of "
            "new queries; `rerank` in Python takes them as query_tokens"
        )
    if kind == "embedding":
        raise ConfigError(
            f"{FLAG}: {reads}, and embeddings have none; give captions or images, whose tokens are made as the "
            "gallery's were"
        )
    # The axes of a projection are fitted on each data set anew; those of one store are the same.
    if about.get("embeddings") == store.fingerprint:
        return
    own, theirs = store.encoder.get("tokens"), (about.get("encoder") or {}).get("tokens")
    if own is None or own != theirs:
        raise DataError(
            f"--ranker {source}: trained on tokens of another layer, grid or projection than those of the gallery "
            f"{store.directory}; tokens of two stores fit each other with the same --image-token-layer, "
            "--text-token-layer and --token-grid, and --token-width 0"
        )


def check_encoder(store: EmbeddingStore, about: dict[str, Any], source: str) -> None:
    """Refuse a ranker that was trained on embeddings of another encoder than the gallery's.

    Raises:
        DataError: names both encoders.
    """
    own, theirs = store.encoder, about.get("encoder") or {}
    # Imported embeddings have no weights hash: of two imported stores only the dimensions can differ.
    if identify_encoder(own) != identify_encoder(theirs) or about["dimensions"] != store.dimensions:
        raise DataError(
            f"--ranker {source}: trained on embeddings of {encoder_name(theirs)}, the gallery {store.directory} has "
            f"those of {encoder_name(own)}"
        )


def encoder_arguments(store: EmbeddingStore, config: RankConfig) -> dict[str, Any]:
    """Arguments of ``load_encoder`` that load the gallery's encoder.

    Raises:
        ConfigError: the encoder is not known, or the path of its model or checkpoint is not given.
        DataError: another model or checkpoint than the gallery's.
    """
    encoder = store.encoder
    if encoder.get("weights_hash") is None:
        raise ConfigError(
            "--queries: the gallery's embeddings were imported, their encoder is not known; give the queries' "
            "embeddings in a parquet file"
        )
    model, source = find_encoder_model(encoder, config)
    if source.weights is not None:
        pretrained = None
        check_checkpoint(source.weights, encoder["pretrained"], f"--model {model}")
    else:
        pretrained = find_encoder_weights(encoder, config)
    return {
        "model": model,
        "pretrained": pretrained,
        "init_seed": encoder.get("init_seed"),
        "precision": encoder.get("precision", "fp32"),
    }


def find_encoder_model(encoder: dict[str, Any], config: RankConfig) -> tuple[str, ModelSource]:
    """What loads the gallery's model, and where it comes from.

    Raises:
        ConfigError: a model of one's own whose path is not given.
        DataError: another model than the gallery's.
    """
    name, architecture = encoder["name"], encoder.get("architecture")
    model = name
    # Of a folder or file, the store keeps the name, not the path.
    if architecture and not name.startswith(HUB):
        if config.model is None:
            form = f"{FOLDER}PATH" if name.startswith(FOLDER) else "PATH.json"
            raise ConfigError(f"--model: the gallery was embedded with {name}; its path, as {form}")
        model = standard_model(config.model)
    source = find_model(model)
    if source.architecture != architecture:
        raise DataError(f"{model}: not the model that the gallery was embedded with, {name} (--model)")
    return model, source


def find_encoder_weights(encoder: dict[str, Any], config: RankConfig) -> str | None:
    """What loads the gallery's weights, where they do not come with the model."""
    pretrained: str | None = encoder["pretrained"]
    # A checkpoint from a file is recorded by its hash: its path may differ from machine to machine.
    if not pretrained or not pretrained.startswith("sha256:"):
        return pretrained
    if config.pretrained is None:
        raise ConfigError(f"--pretrained: the gallery was embedded with a checkpoint of {encoder['name']}; its path")
    path = resolve(config.pretrained)
    if not path.is_file():
        raise DataError(f"{path}: no such file (--pretrained)")
    check_checkpoint(path, pretrained, "--pretrained")
    return str(path)


def check_checkpoint(path: Path, recorded: str, flag: str) -> None:
    """Raise DataError for another checkpoint than the one whose hash the gallery records."""
    if f"sha256:{sha256_file(path)}" != recorded:
        raise DataError(f"{path}: not the checkpoint that the gallery was embedded with ({flag})")
