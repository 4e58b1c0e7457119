"""Training of rankers that read tokens: what a batch holds, every loss, folds, resumption, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pipeline import mine_small
from plain import plain_training

from xmrank.embed.token_store import TokenArray, count_to_offsets
from xmrank.losses import LOSSES
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.in_memory import mine_lists
from xmrank.mine.list_paths import lists_path
from xmrank.rankers import CrossAttentionParameters, TokenSizes
from xmrank.runtime.errors import ConfigError
from xmrank.train.api import train_ranker
from xmrank.train.checkpoint import read_ranker
from xmrank.train.list_data import ListData
from xmrank.train.token_sides import TokenSides, check_tokens, find_grid, gather_side
from xmrank.train.training_data import TrainingData
from xmrank.train.trials import Trial

from .test_resume import StoppedError, stop_after
from .test_training_data import REFINE
from .toys import TOKENS, assert_equal_weights, result, run_toys, settings, toy_data, train_toy, with_tokens

CPU = torch.device("cpu")
DROPPING = replace(TOKENS, dropout=0.1, token_dropout=0.2)


def add_tokens(store, *, images=4):
    """A store with tokens: of every image so many, of every caption one to three."""
    rng = np.random.default_rng(0)
    words = count_to_offsets(rng.integers(1, 4, len(store.text)))
    arrays = {
        "image": TokenArray(
            rng.normal(size=(images * len(store.image), 5)).astype(np.float16),
            count_to_offsets(np.full(len(store.image), images)),
        ),
        "text": TokenArray(rng.normal(size=(words[-1], 3)).astype(np.float16), words),
    }
    return replace(store, token_arrays=arrays)


def test_a_batch_holds_the_tokens_of_every_row_once():
    data = with_tokens(toy_data(10))
    rows = np.array([7, 2])
    batch, tokens = data.gather_batch(rows), data.tokens
    candidates = data.lists.pad_lists(rows)[0]
    assert len(batch.tokens.candidate.values) == len(np.unique(candidates))
    for side, array, store_rows in (
        (batch.tokens.query, tokens.query, data.lists.queries[rows]),
        (batch.tokens.candidate, tokens.candidate, candidates),
    ):
        for index, row in zip(side.index.flatten().tolist(), np.ravel(store_rows), strict=True):
            expected, mask = array.gather(np.array(row), side.longest)
            assert np.array_equal(side.values[index].numpy(), expected)
            assert np.array_equal(side.mask[index].numpy(), mask)
    assert (batch.tokens.candidate.index[~batch.mask] == 0).all()


def test_the_longest_of_the_batch_is_the_padding():
    tokens = TokenArray(np.zeros((6, 2), np.float32), np.array([0, 1, 6, 6]))
    assert gather_side(tokens, np.array([0, 0]), CPU).values.shape == (1, 1, 2)
    assert gather_side(tokens, np.array([[0, 1]]), CPU).values.shape == (2, 5, 2)
    assert gather_side(tokens, np.array([2]), CPU).values.shape == (1, 1, 2)
    assert gather_side(tokens, np.array([], np.int64), CPU).values.shape == (0, 1, 2)
    grid = TokenArray(np.zeros((8, 2), np.float32), np.array([0, 4, 8]))
    assert gather_side(grid, np.array([], np.int64), CPU).values.shape == (0, 4, 2)


def test_sizes_follow_from_the_tokens():
    sizes = with_tokens(toy_data(10)).tokens.sizes
    assert sizes == TokenSizes("query", text_width=3, text_longest=3, image_width=5, image_longest=4, image_grid=2)
    other = with_tokens(toy_data(10), text="candidate").tokens.sizes
    assert other == replace(sizes, text="candidate")


@pytest.mark.parametrize(("counts", "grid"), [([9, 9], 3), ([8, 8], 0), ([9, 4], 0), ([], 0)])
def test_a_grid_is_a_square_number_of_tokens_for_every_image(counts, grid):
    offsets = count_to_offsets(np.array(counts, np.int64))
    assert find_grid(TokenArray(np.zeros((offsets[-1], 2), np.float32), offsets)) == grid


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_a_ranker_on_tokens(tmp_path, loss):
    data = TrainingData(with_tokens(toy_data(24)), with_tokens(toy_data(8, seed=1), seed=1))
    ranker = TOKENS if loss != "ordinal" else replace(TOKENS, levels=1)
    config = settings(ranker=ranker, epochs=6, batch_size=12, learning_rate=0.02, validate_start=True)
    _, history = train_toy(tmp_path, config, Trial(loss, "t2i", 0), data=data)
    losses = [epoch["train_loss"] for epoch in history["epochs"][1:]]
    assert min(losses[3:]) < losses[0]


def test_training_starts_from_the_first_stage(tmp_path):
    validation = with_tokens(toy_data(20, seed=1), seed=1)
    data = TrainingData(with_tokens(toy_data(10)), validation)
    config = settings(ranker=DROPPING, epochs=1, validate_start=True)
    _, history = train_toy(tmp_path, config, Trial("listnet", "t2i", 0), data=data)
    first = validation.gather_batch(np.arange(20))
    scores = first.similarity.masked_fill(~first.mask, -np.inf)
    best = first.labels.gather(1, scores.argmax(1, keepdim=True))
    assert history["epochs"][0]["validation_hit@1"] == pytest.approx(best.mean().item())


@pytest.mark.parametrize("text", ["query", "candidate"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interrupted_training_ends_in_the_same_weights(tmp_path, text, precision):
    ranker = DROPPING if text == "query" else CrossAttentionParameters(**vars(DROPPING))
    config = settings(ranker=ranker, epochs=3, precision=precision, micro_batch=5)
    data = TrainingData(with_tokens(toy_data(20), text=text), with_tokens(toy_data(8, seed=1), text=text, seed=1))
    trial = Trial("listnet", "i2t", 0)
    weights, history = train_toy(tmp_path / "undisturbed", config, trial, data=data)
    with pytest.raises(StoppedError):
        train_toy(tmp_path / "resumed", config, trial, data=data, on_epoch=stop_after(1))
    resumed, figures = train_toy(tmp_path / "resumed", config, trial, data=data)
    assert_equal_weights(resumed, weights)
    assert figures == history
    # The checkpoint rebuilds the ranker with the sizes of its tokens.
    assert read_ranker(tmp_path / "resumed")[0].sizes == data.token_sizes


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_folds_of_a_refinement_and_in_batch_lists(tiny_store, tmp_path, direction):
    store = add_tokens(tiny_store(tmp_path / "store", splits={"train": 60, "val": 20, "test": 20}, signal=0.7))
    lists = mine_small(store.directory, tmp_path / "lists").output
    config = plain_training(ranker=TOKENS, refine=REFINE, sampling="in-batch", sampling_top=5, epochs=1, batch_size=8)
    parts = [ListData.of(CandidateLists.read(lists_path(lists, direction, role)), store, direction, CPU)
             for role in ("train", "validation")]  # fmt: skip
    data = TrainingData.open(*parts, store, lists, direction, config, tmp_path / "detections")
    assert not run_toys(tmp_path, config, [Trial("softmax", direction, 0)], data=data, at=tmp_path / "trial")
    assert len(result(tmp_path / "trial")[1]["epochs"]) == 1
    folds = data.refinements[0].folds
    drawn = data.sample_lists(0, 1)
    # A step of eight lists reads the tokens of eight images.
    batch = drawn.gather_batch(np.arange(8))
    images = batch.tokens.query if direction == "i2t" else batch.tokens.candidate
    assert len(images.values) == 8
    owner = store.image_of_caption
    query_images = drawn.lists.queries if direction == "i2t" else owner[drawn.lists.queries]
    assert len(drawn.lists) == 60
    assert any(set(query_images[:8]) <= set(fold) for fold in folds)


@pytest.fixture(scope="module")
def lists(tiny_store):
    """A store with tokens, and its training and validation lists."""
    store = add_tokens(tiny_store(splits={"train": 24, "val": 12, "test": 4}))
    return store, *(
        mine_lists(store, direction="t2i", split=split, random_candidates=8, hard_negatives=4)
        for split in ("train", "val")
    )


def test_a_ranker_on_tokens_is_trained_without_a_job(lists):
    store, train, validation = lists
    ranker, history = train_ranker(store, train, validation, direction="t2i", ranker=TOKENS, epochs=1)
    assert ranker.sizes == TokenSides.of(store, "t2i").sizes
    assert [epoch["epoch"] for epoch in history["epochs"]] == [0, 1]


def test_a_store_without_tokens_is_refused(lists):
    store, train, validation = lists
    with pytest.raises(ConfigError, match=r"--ranker late_interaction: reads tokens, and .* has none; make it with"):
        train_ranker(replace(store, token_arrays={}), train, validation, direction="t2i", ranker=TOKENS)


def test_convolutions_over_other_tokens_than_a_square_are_refused(lists):
    store = add_tokens(lists[0], images=3)
    with pytest.raises(ConfigError, match=r"--ranker\.token-convolutions 2: expected 0, since the image tokens"):
        check_tokens(TOKENS, store)
    check_tokens(replace(TOKENS, token_convolutions=0), store)


def test_a_stack_of_rankers_on_tokens_is_refused():
    with pytest.raises(ConfigError, match="--stack on: late_interaction is trained one at a time"):
        plain_training(ranker=TOKENS, stack="on")
