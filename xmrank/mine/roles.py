"""Which images train, which choose the best epoch, which are reported on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xmrank.config import MineConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import ConfigError

Role = Literal["train", "validation", "test"]
ROLES: tuple[Role, ...] = ("train", "validation", "test")
HELD_OUT_SHARE = 0.1
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


def choose_parts(store: EmbeddingStore, config: MineConfig) -> dict[Role, RoleImages]:
    """The parts that the configuration names or, where it says auto, that the splits suggest.

    With a test split: train, val selects, test is reported. Without: a seeded tenth of the training images selects
    and val is reported, so that nothing is chosen on what is reported.

    Raises:
        ConfigError: a split that the store does not have, or one that plays two roles.
    """
    known = store.splits()
    report = config.test_split
    if report == "auto":
        report = "test" if "test" in known else "val"
    validation = config.validation_split
    if validation == "auto":
        validation = "val" if report != "val" and "val" in known else config.train_split
    for flag, split in (("train", config.train_split), ("validation", validation), ("test", report)):
        if split not in known:
            raise ConfigError(f"--{flag}-split {split}: the store has no such split; it has: {', '.join(known)}")
    if report in (config.train_split, validation):
        raise ConfigError(f"--test-split {report}: rankers are trained or chosen on it; expected another split")
    train = store.image_rows(config.train_split)
    if validation != config.train_split:
        chosen = store.image_rows(validation)
        return as_parts((config.train_split, train), (validation, chosen), (report, store.image_rows(report)))
    train, chosen = hold_out(train, config.seed)
    held = f"{validation} (held out)"
    return as_parts((config.train_split, train), (held, chosen), (report, store.image_rows(report)))


def as_parts(*parts: tuple[str, np.ndarray]) -> dict[Role, RoleImages]:
    """The parts by role."""
    return {role: RoleImages(role, split, images) for role, (split, images) in zip(ROLES, parts, strict=True)}


def hold_out(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A seeded tenth of the images, at least one, taken out: (the rest, the tenth), both ascending."""
    generator = np.random.default_rng([seed, HELD_OUT_STREAM])
    count = max(1, round(HELD_OUT_SHARE * len(images)))
    chosen = np.sort(generator.choice(images, count, replace=False))
    return np.setdiff1d(images, chosen), chosen
