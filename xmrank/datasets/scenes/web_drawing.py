"""Drawing a picture of the web-like distribution: backdrop, clutter, objects, then what cameras and pages do to it."""

import random
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from xmrank.datasets.scenes.drawing import digit_stencil, shape_stencil, texture_mask
from xmrank.datasets.scenes.layout import LABEL_NAMES, random_numbers
from xmrank.datasets.scenes.web_layout import WebObject, WebPicture

_WATERMARKS = ("sample", "preview", "shop", "free", "stock")


def draw_picture(picture: WebPicture) -> Image.Image:
    """The picture as an RGB image of its size; the same picture always gives the same pixels."""
    rng = random_numbers(f"{picture.key}/drawing")
    image = _draw_backdrop(picture, rng)
    draw = ImageDraw.Draw(image)
    for _ in range(picture.clutter):
        _draw_clutter(draw, picture, rng)
    for item in picture.objects:
        _draw_item(image, item, rng)
    if rng.random() < 0.1:
        _draw_watermark(draw, picture, rng)
    return _degrade_image(image, rng)


def write_picture(picture: WebPicture, file: Path | BinaryIO) -> None:
    """Write the picture as a JPEG file, of a quality between 40 and 90."""
    quality = random_numbers(f"{picture.key}/quality").randint(40, 90)
    draw_picture(picture).save(file, "JPEG", quality=quality)


def _draw_backdrop(picture: WebPicture, rng: random.Random) -> Image.Image:
    size = (picture.width, picture.height)
    y, x = np.mgrid[0 : picture.height, 0 : picture.width]
    strength, period = rng.uniform(10, 50), rng.randint(6, 40)
    relief: NDArray[np.float64]
    if picture.backdrop == "gradient":
        across, down = rng.uniform(-1, 1), rng.uniform(-1, 1)
        relief = across * (x / picture.width - 0.5) + down * (y / picture.height - 0.5)
    elif picture.backdrop == "cloudy":
        # A few random cells, enlarged smoothly: shadows and blurred surroundings.
        cells = Image.fromarray(_random_bytes(rng, 5, 5)).resize(size, Image.Resampling.BICUBIC)
        relief = np.asarray(cells) / 255 - 0.5
    elif picture.backdrop == "grainy":
        relief = _random_bytes(rng, picture.height, picture.width) / 255 - 0.5
    elif picture.backdrop == "banded":
        relief = np.where((x * rng.choice((0, 1)) + y) // period % 2, 0.4, -0.4)
    elif picture.backdrop == "tiled":
        relief = np.where((x // period + y // period) % 2, 0.4, -0.4)
    else:
        relief = np.zeros((picture.height, picture.width))
    pixels = np.array(picture.rgb) + (relief * strength)[:, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _random_bytes(rng: random.Random, rows: int, columns: int) -> NDArray[np.uint8]:
    return np.frombuffer(rng.randbytes(rows * columns), np.uint8).reshape(rows, columns)


def _draw_clutter(draw: ImageDraw.ImageDraw, picture: WebPicture, rng: random.Random) -> None:
    """One thing that no alt text speaks of: a line, a scribble, an arc, specks or a bar."""
    # Near the background's colour, so that clutter does not hide the objects' colours.
    tone = tuple(max(0, min(255, channel + rng.randint(-70, 70))) for channel in picture.rgb)
    kind = rng.choice(("line", "scribble", "arc", "specks", "bar"))
    points = [(rng.randrange(picture.width), rng.randrange(picture.height)) for _ in range(6)]
    if kind == "line":
        draw.line(points[:2], fill=tone, width=rng.randint(1, 3))
    elif kind == "scribble":
        draw.line(points, fill=tone, width=1)
    elif kind == "arc":
        (x, y), radius, start = points[0], rng.randint(8, 40), rng.randint(0, 359)
        draw.arc((x - radius, y - radius, x + radius, y + radius), start, start + 120, fill=tone, width=2)
    elif kind == "specks":
        for x, y in points:
            draw.ellipse((x, y, x + 3, y + 3), fill=tone)
    else:
        top = points[0][1]
        draw.rectangle((0, top, picture.width, top + rng.randint(3, 10)), fill=tone)


def _draw_item(image: Image.Image, item: WebObject, rng: random.Random) -> None:
    stencil = _make_stencil(item).rotate(item.angle, Image.Resampling.BILINEAR)
    corner = (item.x - item.diameter // 2, item.y - item.diameter // 2)
    if rng.random() < 0.2:  # a shadow
        shade = Image.new("RGB", stencil.size, (30, 30, 30))
        image.paste(shade, (corner[0] + 2, corner[1] + 2), stencil.point([value // 3 for value in range(256)]))
    image.paste(_fill_object(item, rng), corner, stencil)


def _make_stencil(item: WebObject) -> Image.Image:
    if item.label < 10:
        return _font_stencil(item) if item.printed else digit_stencil(item.label, item.glyph, item.diameter)
    stencil = shape_stencil(LABEL_NAMES[item.label], item.diameter)
    if item.fill == "outlined" and item.diameter >= 24:
        # What remains of the shape when its inner part is taken away.
        return ImageChops.subtract(stencil, stencil.filter(ImageFilter.MinFilter(max(3, item.diameter // 12 * 2 + 1))))
    return stencil


def _font_stencil(item: WebObject) -> Image.Image:
    stencil = Image.new("L", (item.diameter, item.diameter))
    middle = item.diameter / 2
    ImageDraw.Draw(stencil).text((middle, middle), str(item.label), 255, _load_font(item.diameter), anchor="mm")
    return stencil


@cache
def _load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fill_object(item: WebObject, rng: random.Random) -> Image.Image:
    """A square of the object's colour; half of it, in a texture, is darker or lighter."""
    colour = np.array(item.rgb, float)
    factor = rng.uniform(0.4, 0.7)
    second = colour * factor if rng.random() < 0.6 else 255 - (255 - colour) * factor
    share = texture_mask(item.fill, item.diameter).astype(float)
    if item.fill == "gradient":
        share = np.linspace(0, 0.8, item.diameter)[:, None].repeat(item.diameter, axis=1)
    pixels = colour + (second - colour) * share[:, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_watermark(draw: ImageDraw.ImageDraw, picture: WebPicture, rng: random.Random) -> None:
    corner = (rng.randrange(picture.width // 2), rng.randrange(picture.height - 10))
    draw.text(corner, rng.choice(_WATERMARKS), fill=(190, 190, 190), font=_load_font(rng.randint(8, 14)))


def _degrade_image(image: Image.Image, rng: random.Random) -> Image.Image:
    """Lighting and contrast a little off; one picture in five is blurred."""
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.85, 1.15))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.8, 1.2))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2))) if rng.random() < 0.2 else image
