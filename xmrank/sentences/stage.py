"""The stage that embeds captions with a text model, to compute relevance between captions from."""

import sys
from typing import Any

import numpy as np

from xmrank.config import SentencesConfig, semantic
from xmrank.embed.store import EmbeddingStore, to_unit_length
from xmrank.runtime.device import own_device
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import write_array
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.storage import local_tree

STAGE = "sentences"
TEXTS = "texts.npy"


def sentences(config: SentencesConfig) -> Manifest:
    """Write the embeddings of all captions of a store, float16 [captions, d], unit length; repeated captions once.

    Raises:
        ConfigError: sentence-transformers is not installed.
        DataError: a store without the texts of its captions, or a model that cannot be loaded.
    """
    store, output = EmbeddingStore.open(resolve(config.embeddings)), resolve(config.output)
    texts = store.captions["text"].to_pylist()
    unknown = sum(text is None for text in texts)
    if unknown:
        raise DataError(f"{store.directory}: has no texts of {unknown} of its {len(texts)} captions")
    stage = StageDirectory.open(
        output, STAGE, config=semantic(config), inputs={"embeddings": store.fingerprint}, overwrite=config.overwrite
    )
    manifest = stage.done or embed_sentences(stage, config, texts)
    print(f"sentences: {manifest.counts['captions']} captions, {manifest.counts['dimensions']} dimensions in {output}")
    return manifest


def embed_sentences(stage: StageDirectory, config: SentencesConfig, texts: list[str]) -> Manifest:
    """Embed every text once and finish the stage."""
    model = load_model(config)
    # In the order of first appearance, so that batches depend on the data alone.
    distinct = list(dict.fromkeys(texts))
    embedded = np.asarray(model.encode(distinct, batch_size=config.batch_size), np.float32)
    row = {text: number for number, text in enumerate(distinct)}
    vectors = to_unit_length(embedded, np.dtype(np.float16))[[row[text] for text in texts]]
    write_array(stage.directory / TEXTS, vectors)
    counts = {"captions": len(texts), "distinct": len(distinct), "dimensions": vectors.shape[1]}
    return stage.finish(counts=counts)


def load_model(config: SentencesConfig) -> Any:
    """The sentence-transformers model. Weights are read from safetensors only, and the model's own code is not run.

    Raises:
        ConfigError: sentence-transformers is not installed.
        DataError: no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer  # an extra
    except ImportError as error:
        raise ConfigError("--model: needs sentence-transformers; pip install 'xmrank[sentences]'") from error
    device = own_device().type
    print(f"{STAGE}: device {device}", file=sys.stderr, flush=True)
    folder = local_tree(resolve(config.model))
    name, _, revision = config.model.partition("@")
    try:
        return SentenceTransformer(
            str(folder) if folder.is_dir() else name,
            revision=None if folder.is_dir() else revision or None,
            device=device,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{config.model}: no model of sentence-transformers could be loaded: {reason}") from error
