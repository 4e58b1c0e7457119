"""Captions of a scene: true, varied, and each about a part of it only.

A caption is chosen in two steps: what it claims (`Claim`), then the words for it (`word_claim`).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations

from xmrank.datasets.scenes.layout import Scene, SceneObject, random_numbers
from xmrank.datasets.scenes.words import word_claim

CAPTIONS_PER_IMAGE = 5


@dataclass(frozen=True)
class Mention:
    """What a caption says about one object; None where it says noitem.

    `label` None: the caption says only that it is a digit or a shape. `cell`: its row and column in the grid.
    """

    is_digit: bool
    label: int | None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None
    cell: tuple[int, int] | None = None

    def fits_object(self, item: SceneObject) -> bool:
        """True if all that is said is true of the object."""
        pairs = [
            (self.label, item.label),
            (self.colour, item.colour),
            (self.size, item.size),
            (self.texture, item.texture),
            (self.cell, (item.row, item.column)),
        ]
        return item.is_digit == self.is_digit and all(said in (None, true) for said, true in pairs)


@dataclass(frozen=True)
class Claim:
    """What a caption says about its scene; None where it says noitem.

    Attributes:
        mentions: of one or two objects.
        relation: of the first object to the second.
        background, pattern: of the scene.
        count: how many objects the scene has.
    """

    mentions: tuple[Mention, ...]
    relation: str | None = None
    background: str | None = None
    pattern: str | None = None
    count: int | None = None

    def holds_for(self, scene: Scene) -> bool:
        """True if the claim is true of the scene."""
        whole = [
            (self.background, scene.background),
            (self.pattern, scene.pattern),
            (self.count, len(scene.objects)),
        ]
        if not all(said in (None, true) for said, true in whole):
            return False
        # The mentions do not say which objects they mean: any choice that makes all of them true will do.
        return any(self._holds_for_objects(chosen) for chosen in permutations(scene.objects, len(self.mentions)))

    def _holds_for_objects(self, objects: tuple[SceneObject, ...]) -> bool:
        if not all(mention.fits_object(item) for mention, item in zip(self.mentions, objects, strict=True)):
            return False
        return self.relation is None or RELATIONS[self.relation](objects[0], objects[1])


def _lies_along(along: int, across: int) -> bool:
    """Whether a step in the grid goes at least as far along an axis as across it."""
    return along >= max(1, abs(across))


RELATIONS: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "left": lambda one, other: _lies_along(other.column - one.column, other.row - one.row),
    "right": lambda one, other: _lies_along(one.column - other.column, other.row - one.row),
    "above": lambda one, other: _lies_along(other.row - one.row, other.column - one.column),
    "below": lambda one, other: _lies_along(one.row - other.row, other.column - one.column),
    "beside": lambda one, other: abs(one.row - other.row) + abs(one.column - other.column) == 1,
}
"""Relation → whether it is true of the first object and the second; a diagonal counts as both of its directions."""


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims."""

    text: str
    claim: Claim


def describe_scene(scene: Scene) -> tuple[Caption, ...]:
    """Five captions of the scene, no two the same text; they depend on the scene's key and content alone."""
    rng = random_numbers(f"{scene.key}/captions")
    # By text, so that a text that is drawn twice counts once.
    captions: dict[str, Caption] = {}
    while len(captions) < CAPTIONS_PER_IMAGE:
        claim = _choose_claim(scene, rng)
        text = word_claim(claim, rng)
        captions.setdefault(text, Caption(text, claim))
    return tuple(captions.values())


def _choose_claim(scene: Scene, rng: random.Random) -> Claim:
    first, second = rng.sample(scene.objects, 2)
    one, two = _choose_mention(first, rng), _choose_mention(second, rng)
    # How often each kind of claim is made; the relation must be one that is true.
    topic = rng.choices(("one", "pair", "relation", "count"), (14, 40, 38, 8))[0]
    relation = None
    if topic == "relation":
        relation = rng.choice([name for name, is_true in RELATIONS.items() if is_true(first, second)])
    extra = rng.choices(("cell", "background", "nothing"), (30, 60, 10))[0]
    if extra == "cell":
        one = replace(one, cell=(first.row, first.column))
    background = extra == "background"
    return Claim(
        mentions=(one,) if topic in ("one", "count") else (one, two),
        relation=relation,
        background=scene.background if background else None,
        pattern=scene.pattern if background and rng.random() < 0.6 else None,
        count=len(scene.objects) if topic == "count" else None,
    )


def _choose_mention(item: SceneObject, rng: random.Random) -> Mention:
    return Mention(
        is_digit=item.is_digit,
        label=item.label if rng.random() < 0.95 else None,
        colour=item.colour if rng.random() < 0.9 else None,
        size=item.size if item.size != "medium" and rng.random() < 0.35 else None,
        texture=item.texture if rng.random() < (0.1 if item.texture == "solid" else 0.5) else None,
    )
