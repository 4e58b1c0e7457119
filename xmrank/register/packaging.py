"""A trained ranker as a model for the registry: with gallery and encoder, or alone where they cannot serve."""

import io
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array
from PIL import Image

from xmrank.config import RegisterConfig
from xmrank.config.common import Direction
from xmrank.config.rank import RankConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.rank.checks import check_query_tokens, encoder_arguments
from xmrank.rank.trained_rankers import RANKER_FOLDER, copy_ranker, ranker_fingerprint
from xmrank.register import retrieval, serving
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import sha256_json
from xmrank.runtime.manifest import MANIFEST
from xmrank.runtime.storage import local_copy
from xmrank.tracking.models import ModelPackage
from xmrank.train.checkpoint_json import read_about

LIBRARIES = ("mlflow", "torch", "numpy", "pandas", "safetensors", "pyarrow", "fsspec", "pyyaml", "tyro")
"""What a ranker needs beside xmrank, whose code is kept with the model."""
RETRIEVAL_LIBRARIES = ("open_clip_torch", "torchvision", "faiss-cpu", "pillow", "scipy")
"""What queries and a gallery need too."""
COPIED = 2**30
"""Bytes of a store up to which a model has a copy of it, unless ``--gallery`` says otherwise."""
CAPTION_EXAMPLE = "a red circle above a blue square"


@dataclass(frozen=True)
class RankerPackage:
    """A ranker made ready for the registry.

    Attributes:
        model: as it is logged.
        fingerprint: of its content.
        takes: what the model takes and returns, in words.
    """

    model: ModelPackage
    fingerprint: str
    takes: str

    @property
    def retrieves(self) -> bool:
        """Whether it takes captions or images, and not arrays."""
        return self.model.loader == retrieval.LOADER


def package_ranker(ranker: Path, store: EmbeddingStore, config: RegisterConfig, folder: Path) -> RankerPackage:
    """Make a model of a ranker.

    Args:
        ranker: its folder.
        store: that it was trained on, which becomes the gallery.
        config: says whether the gallery is copied, and where an encoder of one's own is.
        folder: an empty one, which takes the model's files.

    Raises:
        ConfigError: a gallery is wanted and cannot serve.
        DataError: weights that are not those of the ranker's JSON.
    """
    # MLflow copies the whole folder; a trial's folder has more than the ranker's two files.
    own = copy_ranker(ranker, folder / RANKER_FOLDER)
    about = read_about(own)
    try:
        if config.gallery != "none":
            check_query_tokens(store, about, "text", str(ranker))
            encoder = encoder_arguments(store, RankConfig(model=config.model, pretrained=config.pretrained))
            return package_retriever(own, store, encoder, config, folder)
    except ConfigError:
        if config.gallery != "auto":
            raise
    return package_scorer(own, about)


def package_scorer(ranker: Path, about: dict[str, Any]) -> RankerPackage:
    """A model of the ranker alone, which takes arrays."""
    dimensions, tokens = int(about["dimensions"]), serving.read_token_sizes(about)
    example, shapes = serving.example_inputs(dimensions, tokens), serving.input_shapes(dimensions, tokens)
    inputs = [TensorSpec(array.dtype, shapes[name], name) for name, array in example.items()]
    output = TensorSpec(np.dtype(np.float32), (-1, -1))
    model = ModelPackage(
        {RANKER_FOLDER: ranker},
        serving.LOADER,
        {},
        ModelSignature(Schema(inputs), Schema([output])),
        example,
        pin_versions(LIBRARIES),
    )
    return RankerPackage(model, ranker_fingerprint(ranker), "takes embeddings and returns scores")


def package_retriever(
    ranker: Path, store: EmbeddingStore, encoder: dict[str, Any], config: RegisterConfig, folder: Path
) -> RankerPackage:
    """A model of the ranker with its gallery, which takes captions or images."""
    direction: Direction = read_about(ranker)["direction"]
    folders = {RANKER_FOLDER: ranker}
    settings: dict[str, Any] = {"candidates": retrieval.CANDIDATES, "encoder": encoder}
    size = sum(entry["bytes"] for entry in store.manifest.outputs.values())
    copied = config.gallery == "copy" or (config.gallery == "auto" and size <= COPIED)
    if copied:
        folders[retrieval.GALLERY] = copy_store(store, folder / retrieval.GALLERY)
    else:
        settings[retrieval.GALLERY] = str(store.directory)
    model = ModelPackage(
        folders,
        retrieval.LOADER,
        settings,
        describe_retrieval(direction),
        make_example(direction),
        pin_versions((*LIBRARIES, *RETRIEVAL_LIBRARIES)),
    )
    fingerprint = sha256_json([ranker_fingerprint(ranker), store.fingerprint, "copied" if copied else "path"])
    origin = f"a copy of the gallery, {size / 1e6:,.0f} MB" if copied else f"the gallery in {store.directory}"
    takes = "captions and returns images" if direction == "t2i" else "images and returns captions"
    return RankerPackage(model, fingerprint, f"takes {takes}, with {origin}")


def describe_retrieval(direction: Direction) -> ModelSignature:
    """The columns of input and output, and the parameters."""
    queries = [ColSpec(DataType.string, retrieval.CAPTION)]
    if direction == "i2t":
        # Either is enough.
        queries = [
            ColSpec(DataType.string, retrieval.IMAGE, required=False),
            ColSpec(DataType.binary, retrieval.IMAGE_BYTES, required=False),
        ]
    answers = [
        ColSpec(Array(DataType.string), "ids"),
        ColSpec(Array(DataType.double), "scores"),
        ColSpec(Array(DataType.string), retrieval.SHOWN[direction]),
        ColSpec(DataType.string, "error"),
    ]
    parameters = [ParamSpec("top_k", DataType.long, retrieval.TOP_K)]
    return ModelSignature(Schema(queries), Schema(answers), ParamSchema(parameters))


def make_example(direction: Direction) -> pd.DataFrame:
    """One query."""
    if direction == "t2i":
        return pd.DataFrame({retrieval.CAPTION: [CAPTION_EXAMPLE]})
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "png")
    return pd.DataFrame({retrieval.IMAGE_BYTES: [file.getvalue()]})


def copy_store(store: EmbeddingStore, target: Path) -> Path:
    """Copy the files that a store's manifest names; returns the target."""
    for name in (*store.manifest.outputs, MANIFEST):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local_copy(store.directory / name), target / name)
    return target


def pin_versions(names: tuple[str, ...]) -> list[str]:
    """The versions of this environment, with which the model is known to load, as an index has them."""
    # A build for one kind of processor, 2.14.0+cpu, is not in every index.
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]
