"""What tokens will be and take, and which items their axes are fitted on."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from xmrank.config import EmbedConfig
from xmrank.config.embed import TokenSettings
from xmrank.embed import token_planning
from xmrank.embed.encoder import load_encoder
from xmrank.embed.token_fitting import choose_sample
from xmrank.embed.token_planning import TokenBudget, TokenShape, measure_shape, plan_budget, plan_tokens
from xmrank.runtime.errors import ConfigError, DataError

SHAPE = TokenShape({"image": 2048, "text": 80}, an_image=49)


def settings(width=128, dtype="float16"):
    return TokenSettings(2, 1, 8, width, dtype, 0)


def dataset(images=3, captions=6, split="train"):
    table = {"image_id": [f"{i}" for i in range(images)], "location": [f"{i}.jpg" for i in range(images)]}
    texts = [f"caption {i}" for i in range(captions)]
    return SimpleNamespace(
        root="/data",
        images=pa.table({**table, "split": [split, *["test"] * (images - 1)]}),
        captions=pa.table({"text": texts, "split": [split, *["test"] * (captions - 1)]}),
    )


def test_bytes_are_those_of_the_files():
    budget = plan_budget(SHAPE, settings(), dataset(), words=10.5)
    # 49 tokens of 128 float16 numbers and an offset; 10.5 tokens of 80, which need no projection.
    assert budget.bytes == {"image": 49 * 256 + 8, "text": 10.5 * 160 + 8}
    assert budget.total == 3 * 12552 + 6 * 1688
    assert budget.describe() == (
        "embed: 49 tokens and 12,552 bytes an image, 10.5 tokens and 1,688 bytes a caption: 47.8 kB of tokens in all"
    )
    assert plan_budget(SHAPE, settings(dtype="int8"), dataset(), 10).bytes["image"] == 49 * (128 + 4) + 8
    assert plan_budget(SHAPE, settings(width=0), dataset(), 10).bytes["image"] == 49 * 4096 + 8
    assert (SHAPE.narrowed(settings()), SHAPE.narrowed(settings(width=0))) == (["image"], [])


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
    budget = TokenBudget({}, {"image": 12552}, {"image": 1_000_000})
    monkeypatch.setattr(token_planning, "count_free_bytes", lambda folder: 24e9)
    with pytest.raises(DataError) as caught:
        budget.refuse_small_disk(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: tokens take 25.1 GB while they are written, 24.0 GB are free on this disk; give a smaller "
        "--token-grid or --token-width, or --token-dtype int8"
    )
    budget.refuse_small_disk(tmp_path, written=2 * 10**9)


def test_the_bundled_encoder_is_measured():
    encoder = load_encoder("xmrank-tiny")
    assert measure_shape(encoder, settings()) == TokenShape({"image": 128, "text": 80}, 64)
    plan = plan_tokens(encoder, settings(), dataset())
    assert plan.budget.tokens == {"image": 64, "text": 2}  # "caption" and a digit


def test_axes_are_fitted_on_the_training_split():
    data = dataset()
    assert choose_sample(data, ["image", "text"], 0) == {"image": ["/data/0.jpg"], "text": ["caption 0"]}
    everything = choose_sample(dataset(split="val"), ["text"], 0)
    assert everything == {"text": [f"caption {i}" for i in range(6)]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"token_grid": 4}, "--token-grid 4: only with --tokens"),
        ({"image_token_layer": 1}, "--image-token-layer 1: only with --tokens"),
        ({"tokens": True, "token_width": -1}, "--token-width -1: expected at least 0"),
        ({"tokens": True, "reuse": "old"}, "--reuse old: copies embeddings, not tokens; leave out --reuse or --tokens"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        EmbedConfig(**values)
    assert str(caught.value) == message
