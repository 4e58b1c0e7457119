"""Which images train, which choose the best epoch, which are reported on."""

import numpy as np
import pytest

from xmrank.config import MineConfig
from xmrank.mine.roles import choose_role_images, describe_unused, hold_out_images
from xmrank.runtime.errors import ConfigError


def parts_of(store, **parameters):
    parts = choose_role_images(store, MineConfig(**parameters))
    return {role: part.split for role, part in parts.items()}, {role: part.images for role, part in parts.items()}


@pytest.fixture(scope="module")
def with_test(tiny_store):
    return tiny_store(splits={"train": 30, "val": 6, "test": 5, "restless": 4}, captions=1)


@pytest.fixture(scope="module")
def without_test(tiny_store):
    return tiny_store(splits={"train": 30, "val": 6, "align": 9}, captions=1)


def test_val_chooses_when_a_test_split_is_reported(with_test):
    splits, images = parts_of(with_test)
    assert splits == {"train": "train", "validation": "val", "test": "test"}
    for role, split in splits.items():
        assert images[role].tolist() == with_test.image_rows(split).tolist()


def test_training_images_choose_when_val_is_reported(without_test):
    splits, images = parts_of(without_test)
    assert splits == {"train": "train", "validation": "train (held out)", "test": "val"}
    assert (len(images["train"]), len(images["validation"]), len(images["test"])) == (27, 3, 6)
    together = np.concatenate([images["train"], images["validation"]])
    assert sorted(together.tolist()) == without_test.image_rows("train").tolist()


def test_reporting_on_val_leaves_it_out_of_the_choice(with_test):
    splits, _ = parts_of(with_test, test_split="val")
    assert splits == {"train": "train", "validation": "train (held out)", "test": "val"}


def test_splits_without_a_role_are_named(with_test, without_test):
    for store, parameters, unused in (
        (with_test, {}, "restless (4 images)"),
        (without_test, {}, "align (9 images)"),
        (with_test, {"validation_split": "train", "test_split": "val"}, "restless (4 images), test (5 images)"),
        (with_test, {"train_split": "restless"}, "train (30 images)"),
    ):
        assert describe_unused(store, choose_role_images(store, MineConfig(**parameters))) == unused


def test_splits_may_be_named(with_test):
    splits, images = parts_of(with_test, train_split="val", validation_split="restless", test_split="train")
    assert splits == {"train": "val", "validation": "restless", "test": "train"}
    assert images["validation"].tolist() == with_test.image_rows("restless").tolist()


def test_choosing_on_the_training_split_holds_images_out(with_test):
    splits, images = parts_of(with_test, validation_split="train")
    assert splits["validation"] == "train (held out)"
    assert not set(images["train"]) & set(images["validation"])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"train_split": "trian"}, "--train-split trian: the store has no such split; it has: "),
        ({"validation_split": "dev"}, "--validation-split dev: the store has no such split; it has: "),
        (
            {"test_split": "dev"},
            "--test-split dev: the store has no such split; it has: restless, test, train, val",
        ),
        ({"test_split": "train"}, "--test-split train: rankers are trained or chosen on it"),
        ({"validation_split": "test"}, "--test-split test: rankers are trained or chosen on it"),
    ],
)
def test_a_split_that_cannot_play_its_role_is_refused(with_test, parameters, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        choose_role_images(with_test, MineConfig(**parameters))


def test_a_store_without_val_and_test_needs_a_flag(tiny_store):
    store = tiny_store(splits={"train": 9, "rest": 3}, captions=1)
    with pytest.raises(ConfigError, match="--test-split val: the store has no such split; it has: rest, train"):
        choose_role_images(store, MineConfig())
    assert parts_of(store, test_split="rest")[0]["test"] == "rest"


@pytest.mark.parametrize(("images", "held_out"), [(1, 1), (4, 1), (14, 1), (16, 2), (1000, 100)])
def test_a_tenth_is_held_out(images, held_out):
    rows = np.arange(images) * 3 + 1
    rest, chosen = hold_out_images(rows, seed=0)
    assert len(chosen) == held_out
    assert sorted([*rest, *chosen]) == rows.tolist()
    assert (np.diff(rest) > 0).all() and (np.diff(chosen) > 0).all()


def test_the_seed_decides_what_is_held_out():
    rows = np.arange(200)
    one, same, other = (hold_out_images(rows, seed)[1].tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_every_image_may_be_held_out():
    times = np.zeros(20)
    for seed in range(600):
        times[hold_out_images(np.arange(20), seed)[1]] += 1
    assert times == pytest.approx(np.full(20, 60), abs=5 * np.sqrt(60))  # two of twenty in each of 600
