"""Captions of a scene: true, varied, and each about a part of it only.

A caption is chosen in two steps: what it claims (`Claim`), then how it words that (`word`).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations

from xmrank.datasets.scenes.layout import Scene, SceneObject, random_numbers
from xmrank.datasets.scenes.words import word

CAPTIONS_PER_IMAGE = 5


@dataclass(frozen=True)
class Mention:
    """What a caption says about one thing; None where it says nothing.

    `label` None: only that it is a digit or a shape is said. `place`: its row and column in the grid.
    """

    is_digit: bool
    label: int | None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None
    place: tuple[int, int] | None = None

    def fits(self, thing: SceneObject) -> bool:
        """True if all that is said is true of the thing."""
        return thing.is_digit == self.is_digit and all(
            said is None or said == true
            for said, true in [
                (self.label, thing.label),
                (self.colour, thing.colour),
                (self.size, thing.size),
                (self.texture, thing.texture),
                (self.place, (thing.row, thing.column)),
            ]
        )


@dataclass(frozen=True)
class Claim:
    """What a caption says of its scene.

    One or two mentions; between first and second, a relation; of the scene, its background's colour and pattern and how
    many things are in it. None where it says nothing.
    """

    mentions: tuple[Mention, ...]
    relation: str | None = None
    background: str | None = None
    pattern: str | None = None
    count: int | None = None

    def holds(self, scene: Scene) -> bool:
        """True if the claim is true of the scene."""
        whole = [
            (self.background, scene.background),
            (self.pattern, scene.pattern),
            (self.count, len(scene.things)),
        ]
        return all(said in (None, true) for said, true in whole) and any(
            self._holds_for(things) for things in permutations(scene.things, len(self.mentions))
        )

    def _holds_for(self, things: tuple[SceneObject, ...]) -> bool:
        return all(mention.fits(thing) for mention, thing in zip(self.mentions, things, strict=True)) and (
            self.relation is None or RELATIONS[self.relation](things[0], things[1])
        )


def _dominates(there: int, across: int) -> bool:
    return there >= max(1, abs(across))


RELATIONS: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "left": lambda one, other: _dominates(other.column - one.column, other.row - one.row),
    "right": lambda one, other: _dominates(one.column - other.column, other.row - one.row),
    "above": lambda one, other: _dominates(other.row - one.row, other.column - one.column),
    "below": lambda one, other: _dominates(one.row - other.row, other.column - one.column),
    "beside": lambda one, other: abs(one.row - other.row) + abs(one.column - other.column) == 1,
}
"""Relation → whether the first thing stands in it to the second; a diagonal counts both ways."""


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims."""

    text: str
    claim: Claim


def describe(scene: Scene) -> tuple[Caption, ...]:
    """Five captions of the scene, no two the same text; they depend on the scene's key and content alone."""
    rng = random_numbers(f"{scene.key}/captions")
    captions: dict[str, Caption] = {}
    while len(captions) < CAPTIONS_PER_IMAGE:
        claim = _choose_claim(scene, rng)
        text = word(claim, rng)
        captions.setdefault(text, Caption(text, claim))
    return tuple(captions.values())


def _choose_claim(scene: Scene, rng: random.Random) -> Claim:
    first, second = rng.sample(scene.things, 2)
    one, two = _mention(first, rng), _mention(second, rng)
    topic = rng.choices(("one", "pair", "relation", "count"), (14, 40, 38, 8))[0]
    relation = None
    if topic == "relation":
        relation = rng.choice([name for name, stands in RELATIONS.items() if stands(first, second)])
    extra = rng.choices(("place", "background", "nothing"), (30, 60, 10))[0]
    if extra == "place":
        one = replace(one, place=(first.row, first.column))
    background = extra == "background"
    return Claim(
        mentions=(one,) if topic in ("one", "count") else (one, two),
        relation=relation,
        background=scene.background if background else None,
        pattern=scene.pattern if background and rng.random() < 0.6 else None,
        count=len(scene.things) if topic == "count" else None,
    )


def _mention(thing: SceneObject, rng: random.Random) -> Mention:
    return Mention(
        is_digit=thing.is_digit,
        label=thing.label if rng.random() < 0.95 else None,
        colour=thing.colour if rng.random() < 0.9 else None,
        size=thing.size if thing.size != "medium" and rng.random() < 0.35 else None,
        texture=thing.texture if rng.random() < (0.1 if thing.texture == "solid" else 0.5) else None,
    )
