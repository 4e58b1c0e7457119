"""Reader of WebDataset tars: members with the same name up to the first dot are one sample."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from xmrank.config import EmbedConfig
from xmrank.datasets.columns import CAPTION, NUMBERED
from xmrank.datasets.locations import in_tar
from xmrank.datasets.pairs import IMAGE_SUFFIXES, TEXT_LIMIT, Pairs, labels_of, lines, texts_of
from xmrank.datasets.places import expand, is_folder, list_files, suffix, threaded
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.tables import Dataset
from xmrank.datasets.tar_index import Member, read_members
from xmrank.errors import DataError
from xmrank.paths import Place, below, place
from xmrank.progress import Progress

TEXTS = ("txt", "text", "caption", "caption.txt", "captions.txt")
JSON, CLASS = "json", "cls"
READ = {*TEXTS, JSON, CLASS}
AT_ONCE = 16
"""Tars whose headers are read at once."""


@dataclass
class Sample:
    """What the tars hold under one key.

    Attributes:
        tar: location of its tar.
        image: its first image, if it has one.
        texts: extension → content of the members that were read; None: longer than ``TEXT_LIMIT``.
    """

    tar: str
    key: str
    image: Member | None = None
    texts: dict[str, bytes | None] = field(default_factory=dict)


def read_webdataset(config: EmbedConfig) -> Dataset:
    """The samples in ``--images``: a tar, a folder of tars, or a pattern such as pairs-{000..099}.tar.

    A sample's captions are the lines of its txt, else the captions in its json, which may also say its split
    (``--split-field``) and label; a cls member is a label, too. The split is otherwise what the tar or its folder is
    named after. Samples without captions, and empty images, are left out and listed.

    Raises:
        DataError: no such tar, one that is broken or compressed, a member that leads out of it, or more left out than
            ``--max-broken`` allows.
    """
    root, tars = find_tars(config.images or "")
    return read_tars(root, tars, "webdataset", config)


def find_tars(images: Any) -> tuple[Place, list[str]]:
    """The root, and the locations of the tars in it."""
    root = place(images)
    if is_folder(root):
        tars = [name for name in list_files(root) if suffix(name) == ".tar"]
        if not tars:
            raise DataError(f"{root}: no .tar files in it (--images)")
        return root, tars
    root, tars = expand(images, "--images")
    if foreign := [tar for tar in tars if suffix(tar) != ".tar"]:
        raise DataError(
            f"{foreign[0]}: expected a folder, or .tar files that are not compressed: members are read by their place "
            "(--images)"
        )
    return root, tars


def read_tars(root: Place, tars: Sequence[str], name: str, config: EmbedConfig) -> Dataset:
    """The samples of some tars."""
    samples: list[Sample] = []
    with Progress(f"{name}: tars", len(tars)) as progress:
        for start in range(0, len(tars), AT_ONCE):
            part = tars[start : start + AT_ONCE]
            for found in threaded(lambda tar: list(samples_of(tar, below(root, tar))), part):
                samples += found
            progress.advance(len(part))
    pairs = Pairs(PurePosixPath(str(root)).name)
    identify = naming(samples)
    for sample in samples:
        add_sample(pairs, sample, identify(sample), config.split_field)
    if not samples:
        raise DataError(f"{pairs.source}: no samples in its tars; expected members like 0001.jpg and 0001.txt")
    return pairs.dataset(name, root, config)


def samples_of(tar: str, address: str) -> Iterator[Sample]:
    """The samples of one tar, in its order."""
    samples: dict[str, Sample] = {}
    for member in read_members(address, tar, is_wanted):
        key, extension = split_name(member.name)
        if not key or not extension:
            continue
        sample = samples.setdefault(key, Sample(tar, key))
        if f".{extension}" in IMAGE_SUFFIXES:
            sample.image = sample.image or member
        elif extension in READ:
            sample.texts[extension] = member.content
    # Anything else (a checksum, an audio track) makes no pair of its own.
    return (sample for sample in samples.values() if sample.image or sample.texts)


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member: WebDataset parts its name at the first dot behind the folders."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    base, _, extension = file.partition(".")
    return (folder + slash + base if base else "", extension.lower())


def is_wanted(name: str, size: int) -> bool:
    """Whether a member is a text that is read with the headers."""
    return split_name(name)[1] in READ and size <= TEXT_LIMIT


def naming(samples: Sequence[Sample]) -> Callable[[Sample], str]:
    """Where an image's id comes from: its key, or its tar and key where several tars use the same keys."""
    if max(Counter(sample.key for sample in samples).values(), default=0) > 1:
        return lambda sample: f"{PurePosixPath(sample.tar).with_suffix('')}/{sample.key}"
    return lambda sample: sample.key


def add_sample(pairs: Pairs, sample: Sample, image_id: str, split_field: str) -> None:
    """Take in one sample, or list why not."""
    image = sample.image
    try:
        about = described(sample)
        captions = captions_of(sample, about)
    except DataError as error:
        pairs.leave_out(image_id, str(error), 1)
        return
    if image is None or not image.size:
        pairs.leave_out(image_id, "its image is empty" if image else "has no image", len(captions))
        return
    split = about.get(split_field) or split_of_file(sample.tar)
    labels = labels_of(about.get("labels", about.get("label")))
    labels += labels_of((sample.texts.get(CLASS) or b"").decode("utf-8", "replace").strip())
    location = in_tar(sample.tar, image.name, image.offset, image.size)
    pairs.image(image_id, location, str(split) if split else None, labels)
    pairs.captions(image_id, captions)


def described(sample: Sample) -> dict[str, Any]:
    """What the sample's json says; nothing without one.

    Raises:
        DataError: it is not JSON, or not an object.
    """
    if JSON not in sample.texts:
        return {}
    try:
        about = json.loads((sample.texts[JSON] or b"").decode("utf-8"))
    except (ValueError, RecursionError):
        raise DataError("its json is not JSON") from None
    if not isinstance(about, dict):
        raise DataError("its json is not an object")
    return about


def captions_of(sample: Sample, about: dict[str, Any]) -> Sequence[object]:
    """A sample's captions: from its text, else from its json.

    Raises:
        DataError: its text is not UTF-8 or too long.
    """
    name = next((name for name in TEXTS if name in sample.texts), None)
    if name is None:
        names = [key for key in about if NUMBERED.fullmatch(key)] or [key for key in CAPTION if key in about][:1]
        return [text for key in names for text in texts_of(about[key])]
    content = sample.texts[name]
    found = None if content is None else lines(content)
    if found is None:
        raise DataError(f"its {name} is not UTF-8" if content is not None else f"its {name} is too long")
    return found
