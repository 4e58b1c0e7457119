"""The trained baselines: their batches, that they learn, that they repeat, and what S-NDCG's share changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.heads import HeadTraining, share_of_rate
from xmrank.baselines.registry import BASELINES, BaselineFit, all_fits, check_baselines, settings_of
from xmrank.config import BaselinesConfig
from xmrank.runtime.errors import ConfigError, DataError

LEARNED = [name for name, baseline in BASELINES.items() if baseline.learned]
IMAGES, CAPTIONS = 60, 3


def make_pairs(seed=0):
    """Images and captions of 4 shared directions, in spaces of 12 and 8 features."""
    generator = np.random.default_rng(seed)
    maps = np.random.default_rng(7).normal(size=(4, 12)), np.random.default_rng(8).normal(size=(4, 8))
    shared = generator.normal(size=(IMAGES, 4))
    owner = np.repeat(np.arange(IMAGES), CAPTIONS)
    image = shared @ maps[0] + 0.1 * generator.normal(size=(IMAGES, 12))
    text = (shared @ maps[1])[owner] + 0.1 * generator.normal(size=(len(owner), 8))
    texts = text / np.linalg.norm(text, axis=1, keepdims=True)
    return FeaturePairs(image.astype(np.float32), text.astype(np.float32), owner, texts.astype(np.float32))


def found_first(towers, pairs):
    """Share of the captions whose image is the first among all."""
    image, text = towers.project("image", pairs.image), towers.project("text", pairs.text)
    return float(((text @ image.T).argmax(1) == pairs.owner).mean())


def training(other, **changes):
    select = lambda towers: {"validation_mean": found_first(towers, other)}  # noqa: E731
    return replace(HeadTraining(0, torch.device("cpu"), select), **changes)


def small(name, **changes):
    settings = BASELINES[name].settings
    settings = replace(settings, dimensions=4, epochs=30, batch_size=30, dropout=0.0, learning_rate=0.01)
    return replace(settings, **({"hidden": 16, "batch_size": 60} if name == "dcca" else {}), **changes)


def fit(name, settings=None, seed=0, **changes):
    return BASELINES[name].fit(make_pairs(), settings or small(name), training(make_pairs(1), seed=seed, **changes))


@pytest.mark.parametrize("name", LEARNED)
def test_it_learns_what_both_sides_share(name):
    towers, best = fit(name)
    assert found_first(towers, make_pairs(2)) > 0.5  # by chance 1/60
    values = [epoch["validation_mean"] for epoch in best.epochs]
    assert best.number == 1 + values.index(max(values))
    assert best.epochs[best.number - 1]["validation_mean"] == found_first(towers, make_pairs(1))
    assert len(best.epochs) == 30


@pytest.mark.parametrize("name", LEARNED)
def test_the_same_seed_gives_the_same_towers_and_another_others(name):
    settings = small(name, epochs=2, dropout=0.2)
    one, again, other = (fit(name, settings, seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", [name for name in LEARNED if BASELINES[name].listwise])
def test_a_share_of_s_ndcg_is_another_objective(name):
    settings = small(name, epochs=2)
    losses = {share: fit(name, settings, listwise=share)[1].epochs[0]["train_loss"] for share in (0.0, 0.5, 1.0)}
    assert len(set(losses.values())) == 3
    assert 0 < losses[1.0] < 1  # one minus an NDCG


def test_s_ndcg_alone_learns():
    assert found_first(fit("vsepp", listwise=1.0)[0], make_pairs(2)) > 0.2


def test_a_loss_that_is_not_finite_ends_the_fit():
    with pytest.raises(DataError, match="no longer finite at learning rate 1e\\+30"):
        fit("infonce", small("infonce", learning_rate=1e30))


def test_an_epoch_has_every_caption_once_and_no_siblings_in_a_batch():
    owner = np.array([0, 2, 2, 0, 1, 2, 3, 3])
    pairs = FeaturePairs(np.zeros((4, 1), np.float32), np.zeros((8, 1), np.float32), owner, np.zeros((8, 1)))
    batches = list(pairs.draw_batches(2, seed=0, epoch=0))
    assert sorted(np.concatenate([captions for _, captions in batches]).tolist()) == list(range(8))
    for images, captions in batches:
        assert (owner[captions] == images).all()
        assert len(set(images.tolist())) == len(images)
    # Rounds of 4, 3 and 1 pairs: two batches of two, one of three, one of one.
    assert [len(images) for images, _ in batches] == [2, 2, 3, 1]
    again, later = (list(pairs.draw_batches(2, 0, epoch)) for epoch in (0, 1))
    assert all((a[1] == b[1]).all() for a, b in zip(batches, again, strict=True))
    assert any((a[1] != b[1]).any() for a, b in zip(batches, later, strict=True))


def test_relevance_of_a_batch():
    owner = np.array([0, 0, 1])
    texts = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    pairs = FeaturePairs(np.zeros((2, 1), np.float32), np.zeros((3, 1), np.float32), owner, texts)
    table = pairs.list_captions()
    assert table.tolist() == [[0, 1], [2, -1]]
    found = pairs.rate_captions(np.array([0, 1]), np.array([0, 2]), table)
    # Image 0 to the caption of image 1: the likest of its own two, (1 + 0.8) / 2; image 1 to caption 0: (1 + 0.6) / 2.
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.9], [0.8, 1.0]]))


def test_the_step_size_rises_and_falls():
    shares = [share_of_rate(step, 100) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1.0
    assert shares[55] == pytest.approx(0.5)
    assert shares[99] < 0.001


def test_fits_of_a_configuration():
    config = BaselinesConfig(baselines=("cca", "vsepp", "dcca"), seeds=(3, 4), listwise=(0.0, 0.5))
    assert all_fits(config) == [
        BaselineFit("cca", 0.0, -1),
        BaselineFit("vsepp", 0.0, 3), BaselineFit("vsepp", 0.0, 4),
        BaselineFit("vsepp", 0.5, 3), BaselineFit("vsepp", 0.5, 4),
        BaselineFit("dcca", 0.0, 3), BaselineFit("dcca", 0.0, 4),
    ]  # fmt: skip
    assert [fit.name for fit in all_fits(config)[::4]] == ["cca", "vsepp-sndcg0.5-seed4"]


def test_settings_by_name():
    config = BaselinesConfig(parameters=("vsepp.margin=0.1", "dcca.hidden=8", "vsepp.epochs=3"))
    assert (settings_of(config, "vsepp").margin, settings_of(config, "vsepp").epochs) == (0.1, 3)
    assert settings_of(config, "dcca").hidden == 8
    assert settings_of(config, "cmpm") == BASELINES["cmpm"].settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselines": ("pca",)}, "--baselines pca: expected one of cosine, cca"),
        ({"parameters": ("vsepp.depth=3",)}, "--parameters vsepp.depth=3: expected vsepp.NAME=VALUE"),
        ({"parameters": ("vsepp.epochs=2.5",)}, "vsepp.epochs=2.5: expected a whole number"),
        ({"parameters": ("vsepp.margin=wide",)}, "vsepp.margin=wide: expected a number"),
        ({"parameters": ("cosine.x=1",)}, "--parameters cosine.x=1"),
        ({"parameters": ("margin=0.1",)}, "--parameters margin=0.1: expected BASELINE.NAME=VALUE"),
        ({"baselines": ("cca",), "listwise": (0.5,)}, "--listwise: none of --baselines takes it"),
    ],
)
def test_what_nobody_has_is_refused(changes, message):
    with pytest.raises(ConfigError) as refused:
        check_baselines(BaselinesConfig(**changes))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"listwise": (1.5,)}, "--listwise 1.5: expected a share between 0 and 1"),
        ({"seeds": ()}, "--seeds : expected one or more"),
        ({"image_features": "x.npy"}, "--image-features and --text-features: expected both or neither"),
    ],
)
def test_a_configuration_that_cannot_be(changes, message):
    with pytest.raises(ConfigError) as refused:
        BaselinesConfig(**changes)
    assert message in str(refused.value)
