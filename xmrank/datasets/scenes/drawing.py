"""Drawing a scene: handwritten digits of scikit-learn and polygons, textured, on a patterned background."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from xmrank.datasets.scenes.layout import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    LABEL_NAMES,
    Colour,
    Scene,
    SceneObject,
    random_numbers,
)

CELL = 32
IMAGE_SIZE = GRID * CELL
_SUPERSAMPLING = 4
_Points = list[tuple[float, float]]
_Mask = NDArray[np.bool_]


def draw_scene(scene: Scene) -> Image.Image:
    """The scene as an RGB image of 96 × 96 pixels; the same scene always gives the same pixels."""
    image = _draw_background(scene)
    for item in scene.objects:
        # A stencil says where the object is; the square behind it has its colour and texture.
        stencil = _make_scene_stencil(item).rotate(item.angle, Image.Resampling.BILINEAR)
        corner = (
            item.column * CELL + (CELL - item.diameter) // 2 + item.shift[0],
            item.row * CELL + (CELL - item.diameter) // 2 + item.shift[1],
        )
        image.paste(_fill_square(COLOURS[item.colour], item.texture, item.diameter), corner, stencil)
    return image


def write_scene(scene: Scene, file: Path | BinaryIO) -> None:
    """Write the scene as a JPEG file, as the data set has it."""
    draw_scene(scene).save(file, "JPEG", quality=90)


def _draw_background(scene: Scene) -> Image.Image:
    rng = random_numbers(f"{scene.key}/background")
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE]
    # The pattern makes the background lighter and darker around its colour, by at most ``strength``.
    strength, period = rng.uniform(16, 28), rng.randint(8, 20)
    if scene.pattern == "shaded":
        angle = rng.uniform(0, 2 * math.pi)
        relief = ((x / IMAGE_SIZE - 0.5) * math.cos(angle) + (y / IMAGE_SIZE - 0.5) * math.sin(angle)) * 2
    elif scene.pattern == "banded":
        relief = np.where((x + y * rng.choice((-1, 0, 1))) // period % 2, 0.5, -0.5)
    elif scene.pattern == "tiled":
        relief = np.where((x // period + y // period) % 2, 0.5, -0.5)
    elif scene.pattern == "grainy":
        grain = np.frombuffer(rng.randbytes(IMAGE_SIZE * IMAGE_SIZE), np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE)
        relief = grain / 127.5 - 1
    else:
        relief = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
    pixels = np.array(BACKGROUNDS[scene.background]) + (relief * strength)[:, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@cache
def _fill_square(colour: Colour, texture: str, diameter: int) -> Image.Image:
    """A square of the colour, with the texture in a darker tone of it: the colour's name stays true."""
    # Darker, never lighter: half a red square in pink would be neither red nor pink.
    dark = np.array([round(channel * 0.55) for channel in colour])
    pixels = np.where(texture_mask(texture, diameter)[:, :, None], dark, np.array(colour))
    return Image.fromarray(pixels.astype(np.uint8))


def texture_mask(name: str, diameter: int) -> _Mask:
    """True where the texture has its second tone, [diameter, diameter]; nowhere for a name that is no texture."""
    y, x = np.mgrid[0:diameter, 0:diameter]
    period = max(6, diameter // 4)
    half = period // 2
    if name == "striped":
        return np.asarray((x + y) % period < half)
    if name == "checkered":
        return np.asarray((x // half + y // half) % 2 == 1)
    if name == "dotted":
        return np.asarray((x % period - half) ** 2 + (y % period - half) ** 2 < half**2 * 0.6)
    return np.zeros((diameter, diameter), bool)


def _make_scene_stencil(item: SceneObject) -> Image.Image:
    if item.is_digit:
        return digit_stencil(item.label, item.glyph, item.diameter)
    return shape_stencil(LABEL_NAMES[item.label], item.diameter)


def digit_stencil(digit: int, glyph: float, diameter: int) -> Image.Image:
    """The stencil of a handwritten digit, uint8 [diameter, diameter]; `glyph` in [0, 1) says which example."""
    glyphs = _load_glyphs()[digit]
    example = glyphs[int(glyph * len(glyphs))]
    return Image.fromarray(example).resize((diameter, diameter), Image.Resampling.BICUBIC)


@cache
def _load_glyphs() -> tuple[NDArray[np.uint8], ...]:
    """Per digit, its handwritten examples: uint8 [examples, 8, 8]."""
    from sklearn.datasets import load_digits  # takes a second to import, and only drawing needs it

    digits = load_digits()
    ink = (digits.images * 255 / 16).astype(np.uint8)
    return tuple(ink[digits.target == digit] for digit in range(10))


@cache
def shape_stencil(name: str, diameter: int) -> Image.Image:
    """The shape's stencil, uint8 [diameter, diameter], drawn larger and averaged down for smooth edges."""
    side = diameter * _SUPERSAMPLING
    stencil = Image.new("L", (side, side))
    draw = ImageDraw.Draw(stencil)
    if name in _POLYGONS:
        draw.polygon([(x * side, y * side) for x, y in _POLYGONS[name]()], fill=255)
    else:
        draw.ellipse((0.02 * side, 0.02 * side, 0.98 * side, 0.98 * side), fill=255)
    # A ring and a crescent are discs with a smaller disc cut out.
    if name == "ring":
        draw.ellipse((0.26 * side, 0.26 * side, 0.74 * side, 0.74 * side), fill=0)
    elif name == "crescent":
        draw.ellipse((0.32 * side, -0.04 * side, 1.14 * side, 0.78 * side), fill=0)
    return stencil.reduce(_SUPERSAMPLING)


def _star_points() -> _Points:
    # Ten points, alternately far from the centre and near to it.
    radii = (0.5, 0.2)
    turns = [math.pi * (tip / 5 - 0.5) for tip in range(10)]
    return [(0.5 + radii[i % 2] * math.cos(t), 0.52 + radii[i % 2] * math.sin(t)) for i, t in enumerate(turns)]


def _heart_points() -> _Points:
    # The usual parametric curve of a heart, scaled to the unit square.
    turns = [math.pi * step / 30 for step in range(60)]
    across = [16 * math.sin(t) ** 3 for t in turns]
    up = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(0.5 + x / 34, 0.46 - y / 34) for x, y in zip(across, up, strict=True)]


_POLYGONS: dict[str, Callable[[], _Points]] = {
    "square": lambda: [(0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92)],
    "triangle": lambda: [(0.5, 0.04), (0.98, 0.94), (0.02, 0.94)],
    "diamond": lambda: [(0.5, 0.0), (0.86, 0.5), (0.5, 1.0), (0.14, 0.5)],
    "cross": lambda: [
        (0.35, 0.04), (0.65, 0.04), (0.65, 0.35), (0.96, 0.35), (0.96, 0.65), (0.65, 0.65),
        (0.65, 0.96), (0.35, 0.96), (0.35, 0.65), (0.04, 0.65), (0.04, 0.35), (0.35, 0.35),
    ],
    "arrow": lambda: [(0.02, 0.36), (0.5, 0.36), (0.5, 0.1), (0.98, 0.5), (0.5, 0.9), (0.5, 0.64), (0.02, 0.64)],
    "star": _star_points,
    "heart": _heart_points,
}  # fmt: skip
