"""What is in a picture of the web-like distribution: the objects of `scenes` in other colours, sizes and layouts.

The bundled encoder is trained on it. Real encoders are used on data that they were not trained on; so is this one.
"""

import colorsys
import math
import random
from dataclasses import dataclass

from xmrank.datasets.scenes.layout import LABEL_NAMES, Colour, random_numbers

PALETTE: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((0.96, 1.01), (0.70, 1.00), (0.50, 1.00)),
    "orange": ((0.05, 0.10), (0.70, 1.00), (0.75, 1.00)),
    "yellow": ((0.12, 0.17), (0.55, 1.00), (0.75, 1.00)),
    "green": ((0.24, 0.42), (0.40, 1.00), (0.30, 0.90)),
    "turquoise": ((0.46, 0.53), (0.40, 1.00), (0.55, 0.95)),
    "blue": ((0.57, 0.66), (0.50, 1.00), (0.55, 1.00)),
    "navy": ((0.60, 0.68), (0.50, 0.90), (0.15, 0.40)),
    "purple": ((0.73, 0.82), (0.40, 0.90), (0.35, 0.90)),
    "pink": ((0.87, 0.95), (0.25, 0.65), (0.80, 1.00)),
    "brown": ((0.03, 0.08), (0.40, 0.80), (0.25, 0.50)),
    "cream": ((0.09, 0.14), (0.10, 0.30), (0.85, 1.00)),
    "white": ((0.00, 1.00), (0.00, 0.05), (0.93, 1.00)),
    "grey": ((0.00, 1.00), (0.00, 0.08), (0.35, 0.70)),
    "black": ((0.00, 1.00), (0.00, 0.30), (0.00, 0.14)),
}
"""Name of a colour → the ranges of hue, saturation and value that are called so. `scenes` has one point of each."""

FILLS = ("solid", "solid", "solid", "gradient", "outlined", "striped", "dotted", "checkered")
BACKDROPS = ("plain", "plain", "plain", "gradient", "cloudy", "grainy", "banded", "tiled")
_SIDES = (80, 160)
_SMALLEST, _LARGEST = 0.17, 0.6
"""Diameters of objects, as a fraction of the picture's shorter side. In `scenes` they are 0.18 to 0.31."""
_DISTINCT = 80.0
_TRIES = 20


@dataclass(frozen=True)
class WebObject:
    """One object of a picture: class, name of its colour, colour, fill, centre and diameter in pixels, turn, glyph."""

    label: int
    colour: str
    rgb: Colour
    fill: str
    x: int
    y: int
    diameter: int
    angle: float
    glyph: float
    printed: bool
    """A digit of a font instead of a handwritten one."""


@dataclass(frozen=True)
class WebPicture:
    """Everything that is in one picture. `key` seeds all else that is drawn at random for it."""

    key: str
    width: int
    height: int
    background: str
    rgb: Colour
    backdrop: str
    clutter: int
    objects: tuple[WebObject, ...]


def compose_picture(seed: int, split: str, number: int) -> WebPicture:
    """Picture `number` of a split. It depends on the three arguments alone."""
    return compose_from_key(f"web/{seed}/{split}/{number}")


def compose_from_key(key: str) -> WebPicture:
    """The picture that belongs to a key."""
    rng = random_numbers(key)
    width, height = rng.randint(*_SIDES), rng.randint(*_SIDES)
    # Not narrower than 3 : 4, since the encoder's preprocessing crops to a square.
    width, height = max(width, height * 3 // 4), max(height, width * 3 // 4)
    # One in five is on white, as the pictures of shops are.
    background = "white" if rng.random() < 0.2 else rng.choice(list(PALETTE))
    rgb = _draw_colour(rng, background)
    objects: list[WebObject] = []
    for _ in range(rng.choices((1, 2, 3, 4, 5), (30, 28, 22, 13, 7))[0]):
        objects += _add_object(rng, (width, height), rgb, objects)
    backdrop, clutter = rng.choice(BACKDROPS), rng.choice((0, 0, 1, 2, 4))
    return WebPicture(key, width, height, background, rgb, backdrop, clutter, tuple(objects))


def _add_object(
    rng: random.Random, size: tuple[int, int], background: Colour, others: list[WebObject]
) -> list[WebObject]:
    """An object at a free position, or none where the picture is full."""
    largest = _LARGEST if not others else 0.4
    for _ in range(_TRIES):
        # As many small ones as large ones: uniform on a logarithmic scale.
        fraction = math.exp(rng.uniform(math.log(_SMALLEST), math.log(largest)))
        diameter = round(min(size) * fraction)
        x, y = (rng.randint(diameter // 2, side - diameter // 2) for side in size)
        # Objects may touch, but none is hidden behind another.
        if all(math.dist((x, y), (o.x, o.y)) > 0.45 * (diameter + o.diameter) for o in others):
            return [_draw_web_object(rng, background, x, y, diameter)]
    return []


def _draw_web_object(rng: random.Random, background: Colour, x: int, y: int, diameter: int) -> WebObject:
    label = rng.randrange(len(LABEL_NAMES))
    colour, rgb = _draw_visible_colour(rng, background)
    return WebObject(
        label=label,
        colour=colour,
        rgb=rgb,
        fill="solid" if label < 10 else rng.choice(FILLS),
        x=x,
        y=y,
        diameter=diameter,
        angle=rng.uniform(-20.0, 20.0),
        glyph=rng.random(),
        printed=rng.random() < 0.3,
    )


def _draw_visible_colour(rng: random.Random, background: Colour) -> tuple[str, Colour]:
    while True:
        colour = rng.choice(list(PALETTE))
        rgb = _draw_colour(rng, colour)
        if math.dist(rgb, background) >= _DISTINCT:
            return colour, rgb


def _draw_colour(rng: random.Random, name: str) -> Colour:
    hue, saturation, value = (rng.uniform(*limits) for limits in PALETTE[name])
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
