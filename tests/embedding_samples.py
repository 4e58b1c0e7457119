"""A few pictures with captions, and the configuration that embeds them."""

import json
from dataclasses import replace

import numpy as np
from PIL import Image

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import KarpathySettings

IMAGES, CAPTIONS = 12, 2
SPLITS = ("train", "train", "val", "test")


def make_pictures(folder, images=IMAGES):
    """JPEG files of noise with two captions each, in Karpathy's form."""
    generator = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    entries = []
    for number in range(images):
        noise = generator.integers(0, 255, (24, 20 + number, 3), np.uint8)
        Image.fromarray(noise).save(folder / "pictures" / f"{number}.jpg")
        captions = [{"raw": f"picture {number} in words {index}"} for index in range(CAPTIONS)]
        entries.append({"filename": f"{number}.jpg", "split": SPLITS[number % 4], "sentences": captions})
    (folder / "captions.json").write_text(json.dumps({"images": entries}))


def configured(folder, **parameters):
    """Shards of 5 images or captions in batches of 2, through an untrained xmrank-tiny."""
    return replace(
        EmbedConfig(
            output=folder / "store",
            dataset=KarpathySettings(annotations=folder / "captions.json", images=folder / "pictures"),
            pretrained="none",
            init_seed=0,
            dtype="float32",
            batch_size=2,
            shard_size=5,
            workers=1,
        ),
        **parameters,
    )


def tokenised(folder, **parameters):
    """As ``configured``, with narrow int8 tokens of a 4 × 4 grid and of word embeddings."""
    layers = {"image_token_layer": 2, "text_token_layer": 1}
    settings = {"tokens": True, **layers, "token_grid": 4, "token_width": 6, "token_dtype": "int8"}
    return configured(folder, **{**settings, **parameters})
