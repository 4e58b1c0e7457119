"""Reader of WebDataset tars: members with the same name up to the first dot are one sample."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from xmrank.config import EmbedConfig
from xmrank.datasets.columns import CAPTION, NUMBERED
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.locations import in_tar
from xmrank.datasets.pair_table import IMAGE_SUFFIXES, TEXT_LIMIT, PairTable, labels_of, lines, texts_of
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.tar_index import TarMember, read_members
from xmrank.datasets.uris import expand, is_folder, list_files, suffix, threaded
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import Place, below, place
from xmrank.runtime.progress import Progress

TEXTS = ("txt", "text", "caption", "caption.txt", "captions.txt")
JSON, CLASS = "json", "cls"
READ = {*TEXTS, JSON, CLASS}
AT_ONCE = 16
"""Tars whose headers are read at once."""


@dataclass
class SampleParts:
    """The members of one key: its first image, and the texts by extension; None: longer than ``TEXT_LIMIT``."""

    image: TarMember | None = None
    texts: dict[str, bytes | None] = field(default_factory=dict)


@dataclass
class TarSample:
    """What a tar holds under one key; ``fault`` says why it is no pair."""

    tar: str
    key: str
    location: str = ""
    captions: Sequence[object] = ()
    split: str | None = None
    labels: list[int | str] = field(default_factory=list)
    fault: str = ""


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
    samples: list[TarSample] = []
    with Progress(f"{name}: tars", len(tars)) as progress:
        for start in range(0, len(tars), AT_ONCE):
            part = tars[start : start + AT_ONCE]
            for found in threaded(lambda tar: samples_of(tar, below(root, tar), config.split_field), part):
                samples += found
            progress.advance(len(part))
    pairs = PairTable(PurePosixPath(str(root)).name)
    if not samples:
        raise DataError(f"{pairs.source}: no samples in its tars; expected members like 0001.jpg and 0001.txt")
    identify = naming(samples)
    for sample in samples:
        image_id = identify(sample)
        if sample.fault:
            pairs.leave_out(image_id, sample.fault, len(sample.captions))
        else:
            pairs.image(image_id, sample.location, sample.split, sample.labels)
            pairs.captions(image_id, sample.captions)
    return pairs.dataset(name, root, config)


def naming(samples: Sequence[TarSample]) -> Callable[[TarSample], str]:
    """Where an image's id comes from: its key, or its tar and key where several tars use the same keys."""
    if max(Counter(sample.key for sample in samples).values()) > 1:
        return lambda sample: f"{PurePosixPath(sample.tar).with_suffix('')}/{sample.key}"
    return lambda sample: sample.key


def samples_of(tar: str, address: str, split_field: str) -> list[TarSample]:
    """The samples of one tar, in its order."""
    found: dict[str, SampleParts] = {}
    for member in read_members(address, tar, is_wanted):
        key, extension = split_name(member.name)
        # Anything else (a checksum, an audio track) makes no pair of its own.
        if f".{extension}" in IMAGE_SUFFIXES:
            parts = found.setdefault(key, SampleParts())
            parts.image = parts.image or member
        elif extension in READ:
            found.setdefault(key, SampleParts()).texts[extension] = member.content
    return [sample_of(tar, key, parts, split_field) for key, parts in found.items() if key]


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member: WebDataset parts its name at the first dot behind the folders."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    base, _, extension = file.partition(".")
    return (folder + slash + base if base else "", extension.lower())


def is_wanted(name: str, size: int) -> bool:
    """Whether a member is a text that is read with the headers."""
    return split_name(name)[1] in READ and size <= TEXT_LIMIT


def sample_of(tar: str, key: str, parts: SampleParts, split_field: str) -> TarSample:
    """A sample, or why it is none."""
    sample, image = TarSample(tar, key), parts.image
    try:
        about = described(parts.texts)
        sample.captions = captions_of(parts.texts, about)
    except DataError as error:
        sample.fault, sample.captions = str(error), [None]
        return sample
    if image is None or not image.size:
        sample.fault = "its image is empty" if image else "has no image"
        return sample
    sample.location = in_tar(tar, image.name, image.offset, image.size)
    split = about.get(split_field) or split_of_file(tar)
    sample.split = str(split) if split else None
    sample.labels = labels_of(about.get("labels", about.get("label")))
    sample.labels += labels_of((parts.texts.get(CLASS) or b"").decode("utf-8", "replace").strip())
    return sample


def described(texts: dict[str, bytes | None]) -> dict[str, Any]:
    """What the sample's json says; nothing without one.

    Raises:
        DataError: it is not JSON, or not an object.
    """
    if JSON not in texts:
        return {}
    try:
        about = json.loads((texts[JSON] or b"").decode("utf-8"))
    except (ValueError, RecursionError):
        raise DataError("its json is not JSON") from None
    if not isinstance(about, dict):
        raise DataError("its json is not an object")
    return about


def captions_of(texts: dict[str, bytes | None], about: dict[str, Any]) -> Sequence[object]:
    """A sample's captions: from its text, else from its json.

    Raises:
        DataError: its text is not UTF-8 or too long.
    """
    name = next((name for name in TEXTS if name in texts), None)
    if name is None:
        names = [key for key in about if NUMBERED.fullmatch(key)] or [key for key in CAPTION if key in about][:1]
        return [text for key in names for text in texts_of(about[key])]
    content = texts[name]
    if content is None:
        raise DataError(f"its {name} is too long")
    try:
        return lines(content)
    except DataError as error:
        raise DataError(f"its {name} {error}") from None
