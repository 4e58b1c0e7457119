"""``embed --inspect``: what is in a data set, without a model and in seconds."""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmrank.config import EmbedConfig
from xmrank.datasets.account import DataAccount, keep_copies_together
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.locations import UNKNOWN_SIZE, find_sizes, read_bytes
from xmrank.datasets.reader_settings import ImportSettings
from xmrank.datasets.readers import read_dataset
from xmrank.datasets.uris import one_line
from xmrank.pages.templating import fill_template
from xmrank.pages.thumbnails import Thumbnail, make_thumbnail
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_text
from xmrank.runtime.paths import below, resolve
from xmrank.runtime.redaction import redact_uri

SHOWN = 10
"""Images that are shown with their captions."""
SAMPLE_SEED = 0
HASHING_S = 10.0
"""Seconds that are spent on the bytes of images that may be equal."""
SIDE = 320
"""Pixels of a picture's longer side."""
TEXT_SHOWN = 100
"""Characters of a caption on the terminal."""
LEFT_OUT_SHOWN = 20
TEMPLATE = "inspection.html.jinja"


@dataclass(frozen=True)
class SampledPair:
    """One image with its captions: its picture, or why it has none."""

    image_id: str
    split: str
    captions: Sequence[str]
    picture: Thumbnail | None
    fault: str


def inspect_dataset(config: EmbedConfig) -> Path:
    """Read a data set, print what is in it and some of its pairs, and write both with pictures as a page.

    Returns:
        The page, beside the output.

    Raises:
        ConfigError: a wrong flag.
        DataError: data that ``embed`` would refuse too.
    """
    dataset, notes = read_anyway(config)
    account, more_notes = take_account(dataset)
    notes += more_notes
    pairs = sample_pairs(dataset)
    root = redact_uri(str(dataset.root))
    for line in (f"{dataset.name}: {root}", account.describe(), *notes):
        print(f"embed: {line}")
    for pair in pairs:
        shown = [text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}…" for text in pair.captions]
        print(f"  {pair.image_id} ({pair.split}){f': {pair.fault}' if pair.fault else ''}")
        print("".join(f"    {text!r}\n" for text in shown), end="")
    output = resolve(config.output)
    page = output.with_name(f"{output.name}-inspect.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    values = {"dataset": dataset.name, "root": root, "account": account, "notes": notes, "pairs": pairs}
    left_out = dataset.left_out[:LEFT_OUT_SHOWN]
    more = len(dataset.left_out) - len(left_out)
    write_text(page, fill_template(TEMPLATE, room="xmrank.embed", **values, left_out=left_out, more=more))
    print(f"embed: with pictures: {page}")
    return page


def read_anyway(config: EmbedConfig) -> tuple[Dataset, list[str]]:
    """The data set, and why ``embed`` would refuse it, if only because too much of it is broken."""
    assert not isinstance(config.dataset, ImportSettings)
    try:
        return read_dataset(config.dataset, config.max_broken), []
    except DataError as error:
        return read_dataset(config.dataset, 1.0), [f"embed refuses these data: {error}"]


def take_account(dataset: Dataset) -> tuple[DataAccount, list[str]]:
    """The account of a data set that is not embedded yet, and what else should be known about it."""
    hashes, missing, complete = hash_equal_sizes(dataset)
    reasons, notes = Counter(dataset.reasons), []
    if missing:
        reasons["no such file"] = missing
        notes.append(f"{missing} images have no file; embed leaves them out, as far as --max-broken allows")
    if not complete:
        notes.append(f"images with the bytes of another were looked for during {HASHING_S:g} s: there may be more")
    if dataset.drawn:
        notes.append("the data name no splits: they are drawn by the hash of the images' ids (--held-out)")
    images = dataset.images.append_column("sha256", pa.array(hashes, pa.string()))
    if dataset.drawn:
        images = keep_copies_together(images)
    return DataAccount.from_tables(images, dataset.captions, reasons, dataset.unused), notes


def hash_equal_sizes(dataset: Dataset) -> tuple[list[str | None], int, bool]:
    """The hash of every image that has the same size as another, None for all others, in the time that there is.

    Returns:
        The hashes, how many images have no file, and whether the time was enough.
    """
    addresses = [below(dataset.root, location) for location in dataset.images["location"].to_pylist()]
    sizes = find_sizes(addresses)
    counts = Counter(sizes)
    hashes: list[str | None] = [None] * len(addresses)
    end = time.monotonic() + HASHING_S
    for row, (address, size) in enumerate(zip(addresses, sizes, strict=True)):
        # Images of different sizes are different.
        if size and (size == UNKNOWN_SIZE or counts[size] > 1):
            if time.monotonic() > end:
                return hashes, counts[None], False
            with suppress(DataError, OSError):  # what cannot be read is the embedding's affair
                hashes[row] = hashlib.sha256(read_bytes(address)).hexdigest()
    return hashes, counts[None], True


def sample_pairs(dataset: Dataset) -> list[SampledPair]:
    """Some images, chosen by a fixed seed, with their captions."""
    count = min(SHOWN, len(dataset.images))
    rows = np.sort(np.random.default_rng(SAMPLE_SEED).choice(len(dataset.images), count, replace=False))
    pairs = []
    for image in dataset.images.take(pa.array(rows)).to_pylist():
        own = pc.equal(dataset.captions["image_id"], image["image_id"])
        captions = dataset.captions.filter(own)["text"].to_pylist()
        picture, fault = show_image(below(dataset.root, image["location"]))
        pairs.append(SampledPair(image["image_id"], image["split"], captions, picture, fault))
    return pairs


def show_image(address: str) -> tuple[Thumbnail | None, str]:
    """An image's picture, or why it has none."""
    try:
        content = read_bytes(address)
        return (make_thumbnail(content, SIDE), "") if content else (None, "no such file, or an empty one")
    # Pillow and the stores have many kinds of errors for a broken file, and none may cost the page.
    except Exception as error:
        return None, f"not a readable picture: {one_line(error)}"
