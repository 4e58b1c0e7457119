"""The trained baselines: their batches, that they learn, that they repeat, and what S-NDCG's share changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from xmrank.baselines.baseline_registry import (
    BASELINES,
    BaselineFit,
    check_baselines,
    describe_settings,
    list_fits,
    settings_of,
    with_settings,
)
from xmrank.baselines.baseline_settings import DccaSettings, KernelSettings, VseppSettings
from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.heads import HeadTraining, share_of_rate
from xmrank.config import BaselinesConfig
from xmrank.config.baselines import SETTINGS
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
    actual = pairs.rate_captions(np.array([0, 1]), np.array([0, 2]), table)
    # Image 0 to the caption of image 1: the likest of its own two, (1 + 0.8) / 2; image 1 to caption 0: (1 + 0.6) / 2.
    torch.testing.assert_close(actual, torch.tensor([[1.0, 0.9], [0.8, 1.0]]))


def test_the_step_size_rises_and_falls():
    shares = [share_of_rate(step, 100) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1.0
    assert shares[55] == pytest.approx(0.5)
    assert shares[99] < 0.001


def test_fits_of_a_configuration():
    config = BaselinesConfig(baselines=("cca", "vsepp", "dcca"), seeds=(3, 4), listwise=(0.0, 0.5))
    assert list_fits(config) == [
        BaselineFit("cca", 0.0, -1),
        BaselineFit("vsepp", 0.0, 3), BaselineFit("vsepp", 0.0, 4),
        BaselineFit("vsepp", 0.5, 3), BaselineFit("vsepp", 0.5, 4),
        BaselineFit("dcca", 0.0, 3), BaselineFit("dcca", 0.0, 4),
    ]  # fmt: skip
    assert [fit.name for fit in list_fits(config)[::4]] == ["cca", "vsepp-sndcg0.5-seed4"]


def test_settings_by_name():
    config = BaselinesConfig(vsepp=VseppSettings(margin=0.1, epochs=3), dcca=DccaSettings(hidden=8))
    assert (settings_of(config, "vsepp").margin, settings_of(config, "vsepp").epochs) == (0.1, 3)
    assert settings_of(config, "dcca").hidden == 8
    assert settings_of(config, "cmpm") == BASELINES["cmpm"].settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselines": ("pca",)}, "--baselines pca: expected one of cosine, cca"),
        (
            {"baselines": ("cca",), "kernel_cca": KernelSettings(pairs=3)},
            "--kernel-cca.pairs 3: kernel_cca is not among --baselines (cca)",
        ),
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2.5}, "epochs 2.5: expected a whole number of at least 0"),
        ({"margin": "wide"}, "margin wide: expected a number of at least 0"),
        ({"margin": -0.1}, "margin -0.1: expected at least 0"),
        ({"dropout": 1.5}, "dropout 1.5: expected at most 1"),
        ({"depth": 3}, "depth: no such setting; expected one of dimensions, hidden"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        with_settings(VseppSettings(), changes)


def test_a_whole_number_is_a_float_where_the_setting_is_one():
    settings = with_settings(VseppSettings(), {"margin": 1, "epochs": 2})
    assert (repr(settings.margin), repr(settings.epochs)) == ("1.0", "2")


def test_the_configuration_has_the_settings_of_every_baseline_at_the_same_defaults():
    config = BaselinesConfig()
    assert {name for name, baseline in BASELINES.items() if vars(baseline.settings)} == set(SETTINGS)
    assert {name: getattr(config, name) for name in SETTINGS} == {name: BASELINES[name].settings for name in SETTINGS}


def test_flags_go_before_the_results_of_a_search_and_these_before_defaults(tmp_path):
    entry = {"baseline": "vsepp", "settings": {"margin": 0.4, "epochs": 9}, "value": 0.5, "points": 2}
    (tmp_path / "best.json").write_text(json.dumps({"vsepp-sndcg0.5": entry}))
    explicit = frozenset({"best", "vsepp.epochs"})
    config = BaselinesConfig(best=tmp_path / "best.json", vsepp=VseppSettings(epochs=3), explicit=explicit)
    settings = settings_of(config, "vsepp", "vsepp-sndcg0.5")
    assert (settings.margin, settings.epochs) == (0.4, 3)
    assert settings_of(config, "vsepp", "vsepp") == VseppSettings(epochs=3)
    assert describe_settings(config)["best"] == {"vsepp-sndcg0.5": {"margin": 0.4}}
    assert settings_of(replace(config, explicit=frozenset()), "vsepp", "vsepp-sndcg0.5").epochs == 9


def test_a_search_of_settings_that_are_not_there_is_refused(tmp_path):
    (tmp_path / "best.json").write_text('{"vsepp": {"baseline": "vsepp", "settings": {"depth": 3}}}')
    with pytest.raises(ConfigError, match=r"--best .*best.json: vsepp: depth: no such setting"):
        settings_of(BaselinesConfig(best=tmp_path / "best.json"), "vsepp", "vsepp")


def test_only_settings_of_chosen_baselines_are_described():
    described = describe_settings(BaselinesConfig(baselines=("cosine", "vsepp")))
    assert described["vsepp"]["margin"] == 0.2
    assert not set(described) & (set(SETTINGS) - {"vsepp"})
