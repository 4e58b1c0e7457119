"""One shard of work: files or captions in, an array and a report out."""

import hashlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from xmrank.embedding import shards
from xmrank.embedding.shards import Shard, ShardReport, decode, encode_shard, forget_changed, read_report
from xmrank.errors import DataError


def picture(colour=(255, 0, 0), size=(4, 2), form="PNG", **options):
    """The bytes of an image file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form, **options)
    return file.getvalue()


class Toy:
    """An encoder whose embedding of an image is its mean colour, of a caption its length and the batch's size."""

    name, dimensions = "toy", 3

    def __init__(self):
        self.batches = []

    def preprocess(self, image):
        return torch.from_numpy(np.array(image, np.float32)).mean((0, 1))

    def encode_images(self, images):
        self.batches.append(len(images))
        return images / 255

    def encode_texts(self, texts):
        self.batches.append(len(texts))
        return torch.tensor([[len(text), 0.0, len(texts)] for text in texts])


@pytest.fixture
def pictures(tmp_path):
    """Five files: red, missing, green, truncated, blue."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    file = io.BytesIO()
    noise.save(file, "JPEG")
    contents = {
        "0.png": picture((255, 0, 0)),
        "2.png": picture((0, 255, 0)),
        "3.jpg": file.getvalue()[:700],
        "4.png": picture((0, 0, 255)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [str(tmp_path / name) for name in ("0.png", "1.png", "2.png", "3.jpg", "4.png")]


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_captions_are_encoded_in_batches(work):
    shard, toy = Shard("text", 3, 100, ["a", "bb", "ccc", "dddd", "eeeee"]), Toy()
    report = encode_shard(shard, toy, work, batch_size=2, dtype="float16")
    array = np.load(work / "text-000003.npy")
    assert array.dtype == np.float16
    assert array[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert toy.batches == [2, 2, 1]
    assert report == read_report(shard, work) == ShardReport(items=5)


def test_broken_images_are_rows_of_zeros_with_a_reason(pictures, work):
    shard, toy = Shard("image", 2, 10, pictures), Toy()
    report = encode_shard(shard, toy, work, batch_size=3, dtype="float32")
    red, green, blue, nothing = [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]
    assert np.load(work / "image-000002.npy").tolist() == [red, nothing, green, nothing, blue]
    assert report.broken[11] == "no such file, or an empty one"
    assert report.broken[13].startswith("not readable as an image: ")
    assert sorted(report.broken) == [11, 13]
    sizes = [len(picture((255, 0, 0))), 0, len(picture((0, 255, 0))), 700, len(picture((0, 0, 255)))]
    assert report.bytes == sizes
    assert report.sha256[2] == hashlib.sha256(picture((0, 255, 0))).hexdigest()
    assert read_report(shard, work) == report


def test_a_batch_of_broken_images_asks_the_encoder_nothing(pictures, work):
    toy = Toy()
    report = encode_shard(Shard("image", 0, 0, [pictures[1]] * 2), toy, work, batch_size=2, dtype="float32")
    assert toy.batches == [] and sorted(report.broken) == [0, 1]
    assert np.load(work / "image-000000.npy").tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_report_is_written_after_the_array(work, monkeypatch):
    def killed(path, value):
        raise KeyboardInterrupt

    shard = Shard("text", 0, 0, ["a"])
    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            encode_shard(shard, Toy(), work, batch_size=1, dtype="float32")
    assert shard.array_path(work).exists() and read_report(shard, work) is None


def test_an_encoder_that_gives_nan_is_refused(work):
    toy = SimpleNamespace(name="toy", encode_texts=lambda texts: torch.full((len(texts), 3), torch.nan))
    with pytest.raises(DataError, match="toy: gave NaN or infinity for text rows 8 and after"):
        encode_shard(Shard("text", 1, 8, ["a"]), toy, work, batch_size=4, dtype="float32")
    assert list(work.iterdir()) == []


def test_a_repaired_image_makes_its_shard_undone(pictures, work, tmp_path):
    shard = Shard("image", 0, 0, pictures)
    encode_shard(shard, Toy(), work, batch_size=5, dtype="float32")
    forget_changed(shard, work)
    assert read_report(shard, work)  # nothing has changed: also the missing one is as it was
    (tmp_path / "1.png").write_bytes(picture((255, 255, 255)))
    forget_changed(shard, work)
    assert read_report(shard, work) is None
    forget_changed(shard, work)  # and again: nothing to forget


def test_captions_are_never_forgotten(work):
    shard = Shard("text", 0, 0, ["a"])
    encode_shard(shard, Toy(), work, batch_size=1, dtype="float32")
    forget_changed(shard, work)
    assert read_report(shard, work)


def test_decoding_gives_rgb():
    assert decode(picture((1, 2, 3))).getpixel((0, 0)) == (1, 2, 3)
    grey = io.BytesIO()
    Image.new("L", (2, 2), 7).save(grey, "PNG")
    assert decode(grey.getvalue()).getpixel((0, 0)) == (7, 7, 7)


def test_decoding_turns_the_picture_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    image = decode(picture(size=(4, 2), form="JPEG", exif=exif))
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
        decode(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [10, 31, 7, 8])
def test_an_image_of_too_many_pixels_is_refused(monkeypatch, limit):
    monkeypatch.setattr(shards, "PIXEL_LIMIT", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # put back what decode sets
    if limit >= 4 * 2:
        assert decode(picture(size=(4, 2))).size == (4, 2)
    with pytest.raises(DataError, match=f"^more than {limit} pixels$"):
        decode(picture(size=(8, 4)))  # both a little and more than twice above a limit
