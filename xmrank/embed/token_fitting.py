"""The axes that tokens are kept along: fitted once, on one worker, before the shards are encoded."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmrank.datasets.dataset import Dataset
from xmrank.embed.encoder import Encoder
from xmrank.embed.image_files import make_batches, prepare_images
from xmrank.embed.preparing import Preparer
from xmrank.embed.shard_report import ShardReport
from xmrank.embed.token_extraction import TokenBatch, TokenExtractor
from xmrank.embed.token_planning import TokenShape
from xmrank.embed.token_projection import TokenMoments, TokenProjection, sample_rows
from xmrank.embed.token_shards import TokenRecipe
from xmrank.embed.token_store import Side
from xmrank.runtime.paths import below

SAMPLE: dict[Side, int] = {"image": 512, "text": 2048}
"""Items whose tokens the axes are fitted on: some ten thousand tokens, which fix a hundred axes well."""


def choose_sample(dataset: Dataset, sides: list[Side], seed: int) -> dict[Side, list[str]]:
    """Images (their addresses) and captions of the training split that axes are fitted on; of all where it is empty.

    The choice depends on the data and the seed alone, so any number of workers gives the same axes.
    """
    columns = {"image": dataset.images["location"], "text": dataset.captions["text"]}
    splits = {"image": dataset.images["split"], "text": dataset.captions["split"]}
    sample: dict[Side, list[str]] = {}
    for side in sides:
        training = np.flatnonzero(pc.equal(splits[side], "train").to_numpy())
        rows = training if len(training) else np.arange(len(splits[side]))
        sample[side] = columns[side].take(pa.array(sample_rows(rows, SAMPLE[side], seed))).to_pylist()
    if "image" in sample:
        sample["image"] = [below(dataset.root, location) for location in sample["image"]]
    return sample


def fit_projections(
    encoder: Encoder, preparer: Preparer, recipe: TokenRecipe, shape: TokenShape, sample: dict[Side, list[str]]
) -> dict[Side, TokenProjection]:
    """The principal axes of a sample's tokens.

    Args:
        encoder: on the device that encodes.
        preparer: of the encoder.
        recipe: without projections.
        shape: of the encoder's tokens.
        sample: image addresses and captions; images that cannot be read are left out.

    Raises:
        DataError: none of the images can be read, or tokens are NaN.
    """
    extractor = TokenExtractor(encoder, recipe.settings)
    projections: dict[Side, TokenProjection] = {}
    for side, items in sample.items():
        moments = TokenMoments(shape.channels[side])
        batches = encode_image_sample if side == "image" else encode_text_sample
        for batch in batches(extractor, preparer, items):
            moments.add(batch.values)
        projections[side] = moments.fit(shape.width(side, recipe.settings))
    return projections


def encode_image_sample(extractor: TokenExtractor, preparer: Preparer, addresses: list[str]) -> Iterator[TokenBatch]:
    """The tokens of images, a batch at a time."""
    images = prepare_images(preparer.pixels, addresses, ShardReport(len(addresses)), row=0, known=preparer.known)
    for _, pixels in make_batches(images, preparer.batch_size):
        yield extractor.encode_images(pixels)[1]


def encode_text_sample(extractor: TokenExtractor, preparer: Preparer, texts: list[str]) -> Iterator[TokenBatch]:
    """The tokens of captions, a batch at a time."""
    for _, ids in preparer.make_token_batches(texts, ShardReport(len(texts))):
        yield extractor.encode_tokens(ids)[1]
