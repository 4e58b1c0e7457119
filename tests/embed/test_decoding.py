"""Image files of all sorts, and what becomes of them on the way to an encoder."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose

from xmrank.embed import decoding as pictures
from xmrank.embed.decoding import NARROWEST, PixelTransform, decode_image
from xmrank.embed.encoder import load_encoder
from xmrank.runtime.errors import DataError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def saved(image, form, **options):
    """The bytes of an image's file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(colour=RED, size=(4, 2), form="PNG", **options):
    """The bytes of an image file of one colour."""
    return saved(Image.new("RGB", size, colour), form, **options)


def test_decoding_gives_rgb():
    assert decode_image(picture((1, 2, 3))).getpixel((0, 0)) == (1, 2, 3)
    grey = io.BytesIO()
    Image.new("L", (2, 2), 7).save(grey, "PNG")
    assert decode_image(grey.getvalue()).getpixel((0, 0)) == (7, 7, 7)


def test_decoding_turns_the_picture_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    image = decode_image(picture(size=(4, 2), form="JPEG", exif=exif))
    assert image.size == (2, 4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no such file, or an empty one"),
        (b"<html>404</html>", "not an image of a known format"),
        (picture()[:50], "not readable as an image"),
        (picture(size=(64, 64), form="JPEG")[:-200], "not readable as an image"),
    ],
)
def test_what_cannot_be_decoded_has_a_reason_in_one_line(content, reason):
    with pytest.raises(DataError, match=f"^{reason}") as caught:
        decode_image(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [10, 31, 7, 8])
def test_an_image_of_too_many_pixels_is_refused(monkeypatch, limit):
    monkeypatch.setattr(pictures, "PIXEL_LIMIT", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # put back what decode_image sets
    if limit >= 4 * 2:
        assert decode_image(picture(size=(4, 2))).size == (4, 2)
    with pytest.raises(DataError, match=f"^more than {limit} pixels$"):
        decode_image(picture(size=(8, 4)))  # both a little and more than twice above a limit


def quarters():
    """Red left, blue right."""
    image = Image.new("RGB", (32, 16), RED)
    image.paste(BLUE, (16, 0, 32, 16))
    return image


def test_a_photograph_held_on_its_side_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 8  # shown after a quarter turn to the left: what was right is on top
    image = decode_image(saved(quarters(), "PNG", exif=exif))
    assert image.size == (16, 32)
    assert image.getpixel((8, 4)) == BLUE and image.getpixel((8, 28)) == RED


def test_inks_become_colours():
    image = decode_image(saved(quarters().convert("CMYK"), "JPEG"))
    assert image.getpixel((4, 8)) == pytest.approx(RED, abs=8) and image.getpixel((28, 8)) == pytest.approx(BLUE, abs=8)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_become_eight(form):
    grey = Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16))
    image = decode_image(saved(grey, form))
    assert [image.getpixel((x, 0))[0] for x in range(5)] == [0, 0, 1, 128, 255]
    assert image.mode == "RGB"


def test_a_map_of_sixteen_bits_keeps_its_range():
    grey = Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16))
    image = decode_image(saved(grey, "PPM"))  # Pillow opens this one as 32 bits
    assert [image.getpixel((x, 0))[0] for x in range(5)] == [0, 0, 1, 128, 255]


def test_twelve_bits_in_a_tiff_are_not_dark():
    # Two values of 12 bits in three bytes: 0xFFF and 0x800.
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    content = b"II*\0" + struct.pack("<I", 12) + b"\xff\xf8\x00\0" + directory + bytes(4)
    image = decode_image(content)
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255,) * 3, (128,) * 3]


def test_floating_point_grey_from_0_to_1_is_scaled():
    grey = Image.fromarray(np.array([[0, 0.25, 0.5, 1]], np.float32))
    image = decode_image(saved(grey, "TIFF"))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (64,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[-1, 70000]], np.int32), "grey of 32 bits, from -1 to 70000: which value is white is not known"),
        (np.array([[0, 255]], np.float32), "floating-point grey from 0 to 255: expected 0 to 1, or 8 or 16 bits"),
        (np.array([[0, np.nan]], np.float32), "floating-point grey from nan to nan: expected 0 to 1"),
    ],
)
def test_grey_of_an_unknown_range_is_refused_by_name(values, reason):
    with pytest.raises(DataError, match=f"^{reason}"):
        decode_image(saved(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    if mode != "P":
        image.putpixel((2, 0), (0, 0, 0, 51))  # a fifth of black on white
    seen = decode_image(saved(image.convert(mode), "PNG"))
    assert [seen.getpixel((x, 0))[0] for x in range(3)] == [255, 0, 255 if mode == "P" else 204]


@pytest.mark.parametrize(
    ("image", "transparent"),
    [
        (Image.new("RGB", (2, 1), (1, 2, 3)), (1, 2, 3)),
        (Image.new("L", (2, 1), 7), 7),
        (Image.fromarray(np.full((1, 2), 700, np.uint16)), 700),
    ],
)
def test_a_colour_that_means_transparent_is_white(image, transparent):
    assert decode_image(saved(image, "PNG", transparency=transparent)).getpixel((0, 0)) == (255, 255, 255)


def test_an_opaque_picture_with_an_alpha_channel_is_unchanged():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8))
    with_alpha = noise.copy()
    with_alpha.putalpha(255)
    assert decode_image(saved(with_alpha, "PNG")).tobytes() == noise.tobytes()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_picture_counts(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    content = saved(frames[0], form, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert decode_image(content).getpixel((4, 4)) == RED


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode):
    assert decode_image(saved(Image.new(mode, (5, 3)), "PNG")).mode == "RGB"


def test_an_image_without_pixels_has_a_reason(monkeypatch):
    empty = Image.new("RGB", (0, 4))
    monkeypatch.setattr(pictures.Image, "open", lambda file: empty)
    with pytest.raises(DataError, match=r"^has no pixels$"):
        decode_image(b"some format that allows it")


def test_a_thread_of_an_image_is_refused():
    assert decode_image(picture(size=(NARROWEST, 1))).size == (NARROWEST, 1)
    with pytest.raises(DataError, match=f"^1 × {NARROWEST + 1} pixels: more than {NARROWEST} times as long as wide$"):
        decode_image(picture(size=(1, NARROWEST + 1)))


def test_two_parts_of_a_transform_give_what_the_whole_gives():
    encoder = load_encoder("xmrank-tiny")
    noise = np.random.default_rng(0).integers(0, 255, (3, 90, 70, 3), np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    sent = torch.stack([encoder.pixels.prepare(image) for image in images])
    assert sent.dtype == torch.uint8
    whole = torch.stack([encoder.preprocess(image) for image in images])
    assert torch.equal(encoder.pixels.finish(sent), whole)
    assert torch.equal(encoder.encode_images(sent), encoder.encode_images(whole))


@pytest.mark.parametrize("transform", [lambda image: torch.ones(3, 2, 2), Compose([lambda image: torch.ones(3, 2, 2)])])
def test_a_transform_of_another_form_is_one_part(transform):
    pixels = PixelTransform.split_transform(transform)
    sent = pixels.prepare(Image.new("RGB", (2, 2)))
    assert sent.dtype == torch.float32 and pixels.finish(sent) is sent
