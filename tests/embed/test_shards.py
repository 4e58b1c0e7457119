"""One shard of work: files or captions in, an array and a report out."""

import copy
import hashlib
import io
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from ray import cloudpickle

from xmrank.embed import image_files, preparing, shards
from xmrank.embed.decoding import PixelTransform
from xmrank.embed.encoder import load_encoder
from xmrank.embed.image_files import plan_reads
from xmrank.embed.preparing import Preparer
from xmrank.embed.shard_report import ShardReport
from xmrank.embed.shards import (
    PreparedShard,
    encode_shard,
    read_report,
    remove_changed_report,
    write_items,
)
from xmrank.runtime.errors import DataError
from xmrank.runtime.pieces import read_pieces


def picture(colour=(255, 0, 0), size=(4, 2), form="PNG", **options):
    """The bytes of an image file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form, **options)
    return file.getvalue()


def mean_colour(image):
    return torch.from_numpy(np.array(image, np.float32)).mean((0, 1))


def lengths(texts):
    """A tokenizer that counts characters."""
    return torch.tensor([[len(text)] for text in texts])


class Toy:
    """An encoder whose embedding of an image is its mean colour, of a caption its length and the batch's size."""

    name, dimensions = "toy", 3

    def __init__(self):
        self.batches = []

    def encode_images(self, images):
        self.batches.append(len(images))
        return images / 255

    def encode_tokens(self, tokens):
        self.batches.append(len(tokens))
        return torch.tensor([[float(length), 0.0, len(tokens)] for (length,) in tokens.tolist()])


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


@pytest.fixture(autouse=True)
def toy_tokenizer(monkeypatch):
    monkeypatch.setattr(preparing, "tokenizer_of", lambda model: lengths)


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def planned(work, kind, items, number=0, copied=None):
    """The shard of this number, with the items; those before it hold others."""
    table = ["another"] * (number * len(items)) + list(items)
    rows = [None] * (number * len(items)) + (copied or [None] * len(items))
    return write_items(work, kind, pa.array(table), pa.array(rows, pa.int64()), len(items))[number]


def preparer(batch_size=2, **parameters):
    return Preparer(PixelTransform(mean_colour), "toy", batch_size, **parameters)


def encoded(shard, work, toy, batch_size=2, dtype="float32", **parameters):
    prepared = preparer(batch_size, **parameters).prepare_shard(shard, work)
    return encode_shard(shard, prepared, toy, work, dtype=dtype)


def test_captions_are_encoded_in_batches(work):
    shard, toy = planned(work, "text", ["a", "bb", "ccc", "dddd", "eeeee"], number=3), Toy()
    assert (shard.start, shard.stop, len(shard)) == (15, 20, 5)
    report = encoded(shard, work, toy, dtype="float16", settings={"batch_size": 2})
    array = np.load(work / "text-000003.npy")
    assert array.dtype == np.float16
    assert array[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert toy.batches == [2, 2, 1]
    assert report == read_report(shard, work) == ShardReport(items=5, settings={"batch_size": 2})


def test_a_preparer_is_small_enough_to_be_sent_with_an_actor():
    """Every actor that starts, or starts again, gets a copy."""
    encoder = load_encoder("xmrank-tiny")
    sent = Preparer(encoder.pixels, encoder.name, 64)
    assert sent.tokenizer  # made, and still not sent
    assert len(cloudpickle.dumps(sent)) < 10_000


def test_what_is_copied_is_not_encoded(work):
    shard, toy = planned(work, "text", ["a", "bb", "ccc", "dddd"], copied=[None, 7, None, 2]), Toy()
    prepared = preparer().prepare_shard(shard, work)
    known = SimpleNamespace(text=np.arange(24, dtype=np.float16).reshape(8, 3))
    report = encode_shard(shard, prepared, toy, work, dtype="float32", known=known)
    assert np.load(shard.array_path(work)).tolist() == [[1, 0, 2], [21, 22, 23], [3, 0, 2], [6, 7, 8]]
    assert toy.batches == [2] and report.copied == {1: 7, 3: 2}
    assert read_report(shard, work) == report
    (piece,) = read_pieces(work.parent).values()
    assert piece.keys() == {f"{work.name}/text-000000.npy", f"{work.name}/text-000000.json"}


def test_broken_images_are_rows_of_zeros_with_a_reason(pictures, work):
    shard, toy = planned(work, "image", pictures, number=2), Toy()
    report = encoded(shard, work, toy, batch_size=2)
    red, green, blue, nothing = [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]
    assert np.load(work / "image-000002.npy").tolist() == [red, nothing, green, nothing, blue]
    assert toy.batches == [2, 1]  # batches of what there is to encode
    assert report.broken[11] == "no such file, or an empty one"
    assert report.broken[13].startswith("not readable as an image: ")
    assert sorted(report.broken) == [11, 13]
    sizes = [len(picture((255, 0, 0))), 0, len(picture((0, 255, 0))), 700, len(picture((0, 0, 255)))]
    assert report.bytes == sizes
    assert report.sha256[2] == hashlib.sha256(picture((0, 255, 0))).hexdigest()
    assert read_report(shard, work) == report


def test_a_shard_prepared_elsewhere_gives_the_same_bytes(pictures, work):
    shard = planned(work, "image", pictures)
    here = encoded(shard, work, Toy())
    content = shard.array_path(work).read_bytes()
    sent = copy.deepcopy(preparer()).prepare_shard(shard, work)
    sent = copy.deepcopy(
        PreparedShard(report=sent.report, batches=list(sent.batches))
    )  # as on the way between processes
    assert encode_shard(shard, sent, Toy(), work, dtype="float32") == here
    assert shard.array_path(work).read_bytes() == content


def test_a_shard_of_broken_images_asks_the_encoder_nothing(pictures, work):
    shard, toy = planned(work, "image", [pictures[1]] * 2), Toy()
    report = encoded(shard, work, toy)
    assert toy.batches == [] and sorted(report.broken) == [0, 1]
    assert np.load(work / "image-000000.npy").tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_report_is_written_after_the_array(work, monkeypatch):
    def killed(path, value):
        raise KeyboardInterrupt

    shard = planned(work, "text", ["a"])
    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            encoded(shard, work, Toy())
    assert shard.array_path(work).exists() and read_report(shard, work) is None


def test_an_encoder_that_gives_nan_is_refused(work):
    toy = SimpleNamespace(name="toy", dimensions=3, encode_tokens=lambda t: torch.full((len(t), 3), torch.nan))
    shard = planned(work, "text", ["a"], number=8)
    with pytest.raises(DataError, match="toy: returned NaN or infinity for text rows 8 and after"):
        encoded(shard, work, toy)
    assert not shard.array_path(work).exists() and not shard.report_path(work).exists()


def test_a_repaired_image_makes_its_shard_undone(pictures, work, tmp_path):
    shard = planned(work, "image", pictures)
    report = encoded(shard, work, Toy(), batch_size=5)
    assert not remove_changed_report(shard, report, work)  # nothing has changed: also the missing one is as it was
    assert read_report(shard, work)
    (tmp_path / "1.png").write_bytes(picture((255, 255, 255)))
    assert remove_changed_report(shard, report, work)
    assert read_report(shard, work) is None


def test_captions_are_never_forgotten(work):
    shard = planned(work, "text", ["a"])
    assert not remove_changed_report(shard, encoded(shard, work, Toy()), work)
    assert read_report(shard, work)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_remote_images_come_in_order_and_their_errors_with_them(monkeypatch, count):
    def read(address):
        if address.endswith("7"):
            raise DataError(f"{address} is broken")
        return address.encode()

    monkeypatch.setattr(image_files, "read_bytes", read)
    addresses = [f"s3://bucket/{number}" for number in range(count)]
    for address, fetch in zip(addresses, plan_reads(addresses), strict=True):
        if address.endswith("7"):
            with pytest.raises(DataError, match=f"{address} is broken"):
                fetch()
        else:
            assert fetch() == address.encode()
