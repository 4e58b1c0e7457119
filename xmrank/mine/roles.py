"""Which images train, which choose the best epoch (validation), and on which results are reported (test)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xmrank.config import MineConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import ConfigError

Role = Literal["train", "validation", "test"]
ROLES: tuple[Role, ...] = ("train", "validation", "test")
HELD_OUT_FRACTION = 0.1
HELD_OUT = " (held out)"
"""Behind the name of a split of which a part is held out."""
HELD_OUT_STREAM = 0x5E1EC7
"""Separates the draw of held-out images from the draws of candidates under the same seed."""


@dataclass(frozen=True)
class RoleImages:
    """The images of one role.

    Attributes:
        split: the split's name in the data; a held-out part of it says so.
        images: image rows, int64, ascending.
    """

    role: Role
    split: str
    images: np.ndarray


def choose_role_images(store: EmbeddingStore, config: MineConfig) -> dict[Role, RoleImages]:
    """The images of every role: the splits that the configuration names or, with auto, those that the data suggest.

    With a test split: train, val and test. Without one: val is tested on, and a seeded tenth of the training images
    is held out for validation, so that nothing is chosen on the images that results are reported on.

    Raises:
        ConfigError: a split that the store does not have, or one with two roles.
    """
    known = store.splits()
    test = choose_test_split(known, config)
    validation = config.validation_split
    if validation == "auto":
        validation = "val" if test != "val" and "val" in known else config.train_split
    for flag, split in (("train", config.train_split), ("validation", validation), ("test", test)):
        if split not in known:
            raise ConfigError(f"--{flag}-split {split}: the store has no such split; it has: {', '.join(known)}")
    if test in (config.train_split, validation):
        raise ConfigError(f"--test-split {test}: rankers are trained or chosen on it; expected another split")
    train_images = store.image_rows(config.train_split)
    validation_images = store.image_rows(validation)
    # No split of its own for validation: part of the training images is held out.
    if validation == config.train_split:
        train_images, validation_images = hold_out_images(train_images, config.seed)
        validation = f"{validation}{HELD_OUT}"
    return {
        "train": RoleImages("train", config.train_split, train_images),
        "validation": RoleImages("validation", validation, validation_images),
        "test": RoleImages("test", test, store.image_rows(test)),
    }


def describe_unused(store: EmbeddingStore, parts: dict[Role, RoleImages]) -> str:
    """The splits of the store that no role uses, with their numbers of images; empty where there is none."""
    # A held-out part of a split is named after it.
    used = {part.split.removesuffix(HELD_OUT) for part in parts.values()}
    unused = [name for name in store.splits() if name not in used]
    return ", ".join(f"{name} ({len(store.image_rows(name))} images)" for name in unused)


def choose_test_split(known: list[str], config: MineConfig) -> str:
    """The split that results are reported on."""
    if config.test_split != "auto":
        return config.test_split
    return "test" if "test" in known else "val"


def role_of_split(store: EmbeddingStore, split: str, config: MineConfig) -> Role:
    """The role that all images of a split have in the mining stage; train for a split that it would not use."""
    if split == choose_test_split(store.splits(), config):
        return "test"
    return "validation" if split in ("val", config.validation_split) else "train"


def hold_out_images(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A seeded tenth of the images, at least one, taken out: (the rest, the tenth), both ascending."""
    generator = np.random.default_rng([seed, HELD_OUT_STREAM])
    # At least one image, or nothing could be chosen.
    count = max(1, round(HELD_OUT_FRACTION * len(images)))
    chosen = np.sort(generator.choice(images, count, replace=False))
    return np.setdiff1d(images, chosen), chosen
