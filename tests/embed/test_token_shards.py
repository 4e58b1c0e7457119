"""Tokens of shards: kept in the items' order, stored in their format, joined across shards."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xmrank.config.embed import TokenSettings
from xmrank.embed.token_assembling import write_tokens
from xmrank.embed.token_extraction import TokenBatch
from xmrank.embed.token_projection import TokenProjection, write_projections
from xmrank.embed.token_shards import ShardTokens, TokenPaths, TokenRecipe
from xmrank.embed.token_store import TokenArray
from xmrank.runtime.errors import DataError


class ToyExtractor:
    """An input is a number n; the item has n tokens, each (n, 2n)."""

    def __init__(self, encoder, settings):
        self.encoder = SimpleNamespace(name="toy")

    def encode_images(self, inputs):
        counts = inputs.int().tolist()
        return inputs[:, None], TokenBatch(
            torch.repeat_interleave(inputs[:, None] * torch.tensor([1.0, 2.0]), inputs.int(), 0), counts
        )


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr("xmrank.embed.token_shards.TokenExtractor", ToyExtractor)


def recipe(dtype="float16", directory=None):
    return TokenRecipe(TokenSettings(0, 0, 0, 0, dtype, 0), directory)


def write_shard(path, items, batches, **parameters):
    """Encode batches of (indices, inputs) as one shard; returns its files."""
    kept = ShardTokens(recipe(**parameters), "image", None, items)
    for indices, inputs in batches:
        assert kept.encode(indices, torch.tensor(inputs, dtype=torch.float32))[:, 0].tolist() == inputs
    paths = TokenPaths.beside(path)
    kept.write(paths)
    return paths


def test_tokens_are_written_in_the_items_order(tmp_path):
    # Item 1 never comes: an image that cannot be read.
    paths = write_shard(tmp_path / "image-000000.npy", 4, [([3, 0], [1, 2]), ([2], [3])])
    assert np.load(paths.counts).tolist() == [2, 0, 3, 1]
    assert np.load(paths.values).tolist() == [[2, 4], [2, 4], [3, 6], [3, 6], [3, 6], [1, 2]]
    assert np.load(paths.values).dtype == np.float16 and not paths.scales.exists()
    assert paths.counts.name == "image-000000-counts.npy"


def test_int8_tokens_have_scales_and_are_projected_first(tmp_path):
    axes = TokenProjection(torch.tensor([1.0, 1.0]), torch.tensor([[0.0, 1.0]]), 1.0)
    write_projections(tmp_path, {"image": axes})
    paths = write_shard(tmp_path / "image-000000.npy", 2, [([0, 1], [1, 2])], dtype="int8", directory=tmp_path)
    assert np.load(paths.values).tolist() == [[127], [127], [127]]
    assert np.allclose(np.load(paths.scales) * 127, [2 - 1, 4 - 1, 4 - 1])


@pytest.mark.parametrize(("value", "message"), [(torch.nan, "toy: returned NaN"), (40000.0, "beyond float16")])
def test_what_cannot_be_stored_is_refused(tmp_path, monkeypatch, value, message):
    made = torch.ones(1, 1), TokenBatch(torch.tensor([[value, 2 * value]]), [1])
    monkeypatch.setattr(ToyExtractor, "encode_images", lambda self, inputs: made)
    with pytest.raises(DataError, match=message):
        ShardTokens(recipe(), "image", None, 1).encode([0], torch.ones(1))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("block", [2, 100])
def test_shards_are_joined_for_the_rows_of_the_store(tmp_path, monkeypatch, dtype, block):
    monkeypatch.setattr("xmrank.embed.token_assembling.BLOCK", block)
    work = tmp_path / "work"
    shards = [SimpleNamespace(array_path=lambda work, n=n: work / f"image-{n:06d}.npy") for n in range(3)]
    # Items 0 … 4, of which 1 has no tokens, and the second shard has none at all.
    batches = [[([0], [2])], [], [([0], [3])]]
    for shard, items, parts in zip(shards, (2, 2, 1), batches, strict=True):
        write_shard(shard.array_path(work), items, parts, dtype=dtype)
    plan = SimpleNamespace(select_kind=lambda kind: shards)
    counts = write_tokens(tmp_path, work, plan, {"image": np.array([4, 0, 1, 4, 3])})
    assert counts == {"image_tokens": 3 + 2 + 0 + 3 + 0}
    tokens = TokenArray.open(tmp_path, "image")
    assert tokens.counts.tolist() == [3, 2, 0, 3, 0]
    values, mask = tokens.gather(np.arange(5))
    np.testing.assert_allclose(values[mask], [[3, 6]] * 3 + [[2, 4]] * 2 + [[3, 6]] * 3, rtol=0.01)
