"""Stores with tokens, made by the bundled encoder, and rankers of random weights that read them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import ScenesConfig, ScenesSettings
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.rankers import CrossAttentionParameters, LateInteractionParameters, build_ranker
from xmrank.train.checkpoint import save_ranker
from xmrank.train.token_sides import TokenSides

SIZES = {"width": 8, "layers": 1, "heads": 2, "feed_forward": 8, "token_width": 8, "token_heads": 2}
RANKERS = {"t2i": LateInteractionParameters, "i2t": CrossAttentionParameters}


@pytest.fixture(scope="session")
def galleries(ray_cluster, tmp_path_factory):
    """Stores of 40 scenes with tokens as float16 and as int8, narrower than their layers, by the bundled encoder."""
    folder = tmp_path_factory.mktemp("galleries")
    scenes = ScenesConfig(train=24, val=4, test=12, folder=folder / "data")
    config = EmbedConfig(
        dataset=ScenesSettings(scenes=scenes), tokens=True, image_token_layer=2, text_token_layer=1, token_width=16,
        workers=1,
    )  # fmt: skip
    stores = {}
    for dtype in ("float16", "int8"):
        embed(replace(config, token_dtype=dtype, output=folder / dtype))
        stores[dtype] = EmbeddingStore.open(folder / dtype)
    return SimpleNamespace(folder=folder, config=config, **stores)


def save_random(store, direction, folder):
    """A ranker of random weights, as a training on the store leaves it."""
    torch.manual_seed(0)
    parameters = RANKERS[direction](**SIZES, zero_init_output=False, residual=None)
    ranker = build_ranker(parameters, dimensions=store.dimensions, tokens=TokenSides.of(store, direction).sizes)
    about = {"loss": "softmax", "direction": direction, "seed": 0, "best_epoch": 1, "lists": "none"}
    about |= {"embeddings": store.fingerprint, "encoder": store.encoder}
    folder.mkdir(parents=True, exist_ok=True)
    save_ranker(folder, ranker, ranker.state_dict(), about)
    return folder
