"""Any image that Pillow reads as an upright one of 8 bits in RGB, for encoders and for pictures on pages.

What has no range of its own is not guessed: a picture that came out black or white would be embedded all the same.
"""

import numpy as np
from PIL import Image, ImageOps

from xmrank.runtime.errors import DataError

GROUND = (255, 255, 255)
"""The colour behind transparent pixels: white, as in a browser."""
BITS_PER_SAMPLE = 258
"""TIFF's tag of it."""


def make_upright_rgb(image: Image.Image) -> Image.Image:
    """The image upright and in RGB, transparent pixels on ``GROUND``; the one that is given may be changed.

    Grey of 9 to 16 bits keeps its upper 8 bits. Floating-point grey from 0 to 1 is multiplied by 255 and rounded.

    Raises:
        DataError: grey of 32 bits, or floating-point grey beyond 0 to 1: nothing says which value is white.
        ValueError: a colour space that Pillow does not convert.
    """
    bits = grey_bits(image)
    # Without a copy, which takes as long as reading the file of a photo.
    ImageOps.exif_transpose(image, in_place=True)
    if bits:
        image = narrow_integers(image, bits)
    elif image.mode == "I":
        low, high = image.getextrema()
        raise DataError(f"grey of 32 bits, from {low} to {high}: which value is white is not known; save 8 or 16 bits")
    elif image.mode == "F":
        image = scale_floats(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    ground = Image.new("RGBA", image.size, GROUND)
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def grey_bits(image: Image.Image) -> int:
    """Bits of a grey value, from 9 to 16; 0 for all other images."""
    # Pillow scales a PGM of more than 8 bits to 16 and keeps it as 32.
    if image.mode == "I" and image.format == "PPM":
        return 16
    if not image.mode.startswith("I;16"):
        return 0
    # Scanners and microscopes write 12 bits into 16.
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(BITS_PER_SAMPLE, (16,))[0])


def narrow_integers(image: Image.Image, bits: int) -> Image.Image:
    """The upper 8 bits of grey values that have ``bits``, with the value that means transparent as an alpha channel."""
    # Pillow's own conversion cuts at 255: nearly all of it would be white.
    values = np.asarray(image).astype(np.uint32)
    narrow = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        narrow.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return narrow


def scale_floats(image: Image.Image) -> Image.Image:
    """Floating-point grey from 0 to 1 as 8 bits.

    Raises:
        DataError: other values, NaN among them.
    """
    values = np.asarray(image)
    # NaN is not at least 0, so it is refused as well.
    if not np.all((values >= 0) & (values <= 1)):
        raise DataError(
            f"floating-point grey from {values.min():g} to {values.max():g}: expected 0 to 1, or 8 or 16 bits"
        )
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))
