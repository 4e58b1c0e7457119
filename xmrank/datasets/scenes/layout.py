"""What is in a scene: objects with colours, sizes, textures and cells, drawn from the scene's own random numbers."""

import math
import random
from dataclasses import dataclass

Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart", "crescent", "arrow")
LABEL_NAMES = (*(str(digit) for digit in range(10)), *SHAPES)
"""Class id → name: the digits 0–9, then the shapes."""

COLOURS: dict[str, Colour] = {
    "red": (215, 35, 35),
    "orange": (245, 135, 20),
    "yellow": (245, 220, 45),
    "green": (40, 160, 60),
    "blue": (45, 95, 225),
    "purple": (130, 50, 170),
    "pink": (250, 130, 185),
    "white": (248, 248, 248),
}
BACKGROUNDS: dict[str, Colour] = {
    "black": (22, 22, 26),
    "grey": (120, 122, 126),
    "cream": (240, 226, 190),
    "navy": (24, 34, 84),
    "brown": (98, 64, 40),
    "turquoise": (70, 190, 190),
}
DIAMETERS = {"small": (17, 19), "medium": (22, 25), "large": (28, 30)}
"""Size → smallest and largest diameter in pixels; a cell of the grid is 32 pixels wide."""

TEXTURES = ("solid", "striped", "dotted", "checkered")
PATTERNS = ("plain", "shaded", "banded", "tiled", "grainy")
GRID = 3
_DISTINCT = 110.0
"""Smallest RGB distance at which a colour still shows on a background."""


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene. `row` and `column` are its cell in the 3 × 3 grid, counted from the top left."""

    label: int
    colour: str
    size: str
    texture: str
    row: int
    column: int
    diameter: int
    shift: tuple[int, int]
    angle: float
    glyph: float
    """Which of the handwritten digits of the class is drawn, as a fraction of how many there are; unused by shapes."""

    @property
    def is_digit(self) -> bool:
        """True for a handwritten digit, False for a drawn shape."""
        return self.label < 10


@dataclass(frozen=True)
class Scene:
    """Everything that is in one image. `key` seeds all else that is drawn at random for it."""

    key: str
    background: str
    pattern: str
    objects: tuple[SceneObject, ...]

    @property
    def labels(self) -> list[int]:
        """The classes of its objects, sorted, each once."""
        return sorted({item.label for item in self.objects})


def random_numbers(key: str) -> random.Random:
    """A generator that depends on the key alone; Python's own, whose stream is the same in every version."""
    return random.Random(key)  # noqa: S311 - images, not secrets


def compose_scene(seed: int, split: str, number: int) -> Scene:
    """Scene `number` of a split. It depends on the three arguments alone, never on how many scenes there are."""
    key = f"scenes/{seed}/{split}/{number}"
    rng = random_numbers(key)
    background = rng.choice(list(BACKGROUNDS))
    # An object must be visible: colours close to the background's are not used.
    colours = [
        name for name, colour in COLOURS.items() if _colour_distance(colour, BACKGROUNDS[background]) >= _DISTINCT
    ]
    # Two to four objects, most often three, each in a cell of its own.
    cells = rng.sample(range(GRID * GRID), rng.choice((2, 3, 3, 4)))
    objects = tuple(_draw_object(rng, colours, *divmod(cell, GRID)) for cell in cells)
    return Scene(key, background, rng.choice(PATTERNS), objects)


def _draw_object(rng: random.Random, colours: list[str], row: int, column: int) -> SceneObject:
    label = rng.randrange(len(LABEL_NAMES))
    size = rng.choice(list(DIAMETERS))
    plain = label < 10 or size == "small"  # a texture would leave nothing legible of a digit's strokes
    diameter = rng.randint(*DIAMETERS[size])
    # Objects move inside their cells, never into another.
    slack = (32 - diameter) // 2
    return SceneObject(
        label=label,
        colour=rng.choice(colours),
        size=size,
        texture="solid" if plain else rng.choice(TEXTURES),
        row=row,
        column=column,
        diameter=diameter,
        shift=(rng.randint(-slack, slack), rng.randint(-slack, slack)),
        angle=rng.uniform(-12.0, 12.0),
        glyph=rng.random(),
    )


def _colour_distance(one: Colour, other: Colour) -> float:
    return math.dist(one, other)
