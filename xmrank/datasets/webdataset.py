"""Reader of WebDataset tars: members with the same name up to the first dot are one sample."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from xmrank.datasets.columns import CAPTION, NUMBERED
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.locations import in_tar
from xmrank.datasets.pair_table import TEXT_LIMIT, PairTable, labels_of, text_lines, texts_of
from xmrank.datasets.reader_settings import HuggingFaceSettings, WebDatasetSettings
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.tar_index import TarMember, read_members
from xmrank.datasets.uris import IMAGE_SUFFIXES, expand_pattern, is_folder, list_files, map_threads, suffix_of
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri, below, resolve_uri
from xmrank.runtime.progress import Progress

TEXTS = ("txt", "text", "caption", "caption.txt", "captions.txt")
JSON, CLASS = "json", "cls"
READ = {*TEXTS, JSON, CLASS}
AT_ONCE = 16
"""Tars whose headers are read at once."""


@dataclass
class SampleParts:
    """The members of one key: its first image, and the texts by extension (None: longer than ``TEXT_LIMIT``)."""

    image: TarMember | None = None
    texts: dict[str, bytes | None] = field(default_factory=dict)


@dataclass
class TarSample:
    """What a tar holds under one key; ``fault`` says what keeps it from being a pair."""

    tar: str
    key: str
    location: str = ""
    captions: Sequence[object] = ()
    split: str | None = None
    labels: list[int | str] = field(default_factory=list)
    fault: str = ""


def read_webdataset(settings: WebDatasetSettings, max_broken: float) -> Dataset:
    """The samples in ``--images``: a tar, a folder of tars, or a pattern such as pairs-{000..099}.tar.

    A sample's captions are the lines of its txt, else the captions in its json, which may also say its split
    (``--split-field``) and label; a cls member is a label, too. Otherwise the split is the one in the name of the tar
    or its folder. Samples without captions, and empty images, are left out and listed.

    Raises:
        DataError: no such tar, one that is broken or compressed, a member that leads out of it, or more left out than
            ``--max-broken`` allows.
    """
    root, tars = find_tars(settings.images)
    return read_tars(root, tars, settings, max_broken)


def find_tars(images: Any) -> tuple[PathOrUri, list[str]]:
    """The root, and the locations of the tars in it."""
    root = resolve_uri(images)
    if is_folder(root):
        tars = [name for name in list_files(root) if suffix_of(name) == ".tar"]
        if not tars:
            raise DataError(f"{root}: no .tar files in it (--images)")
        return root, tars
    # Neither a folder nor necessarily a file that exists: read_tars names the one that does not.
    root, tars = expand_pattern(images, "--images")
    if foreign := [tar for tar in tars if suffix_of(tar) != ".tar"]:
        raise DataError(
            f"{foreign[0]}: expected a folder, or .tar files that are not compressed: members are read by their offset "
            "(--images)"
        )
    return root, tars


def read_tars(
    root: PathOrUri, tars: Sequence[str], settings: WebDatasetSettings | HuggingFaceSettings, max_broken: float
) -> Dataset:
    """The samples of some tars."""
    samples: list[TarSample] = []
    with Progress(f"{settings.name}: tars", len(tars)) as progress:
        for start in range(0, len(tars), AT_ONCE):
            part = tars[start : start + AT_ONCE]
            for in_tar in map_threads(lambda tar: read_samples(tar, below(root, tar), settings.split_field), part):
                samples += in_tar
            progress.advance(len(part))
    pairs = PairTable(PurePosixPath(str(root)).name)
    if not samples:
        raise DataError(f"{pairs.source}: no samples in its tars; expected members like 0001.jpg and 0001.txt")
    make_id = choose_ids(samples)
    for sample in samples:
        image_id = make_id(sample)
        if sample.fault:
            pairs.leave_out(image_id, sample.fault, len(sample.captions))
        else:
            pairs.add_image(image_id, sample.location, sample.split, sample.labels)
            pairs.add_captions(image_id, sample.captions)
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


def choose_ids(samples: Sequence[TarSample]) -> Callable[[TarSample], str]:
    """How an image's id is made: of its key, or of its tar and key where several tars use the same keys."""
    # A key that occurs twice would be two images with one id.
    if max(Counter(sample.key for sample in samples).values()) > 1:
        return lambda sample: f"{PurePosixPath(sample.tar).with_suffix('')}/{sample.key}"
    return lambda sample: sample.key


def read_samples(tar: str, address: str, split_field: str) -> list[TarSample]:
    """The samples of one tar, in its order."""
    parts_of: dict[str, SampleParts] = {}
    for member in read_members(address, tar, is_wanted):
        key, extension = split_name(member.name)
        # Anything else (a checksum, an audio track) makes no pair of its own.
        if f".{extension}" in IMAGE_SUFFIXES:
            parts = parts_of.setdefault(key, SampleParts())
            parts.image = parts.image or member
        elif extension in READ:
            parts_of.setdefault(key, SampleParts()).texts[extension] = member.content
    return [make_sample(tar, key, parts, split_field) for key, parts in parts_of.items() if key]


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member: WebDataset splits its name at the first dot after the folders."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    base, _, extension = file.partition(".")
    return (folder + slash + base if base else "", extension.lower())


def is_wanted(name: str, size: int) -> bool:
    """Whether a member is a text that is read with the headers."""
    return split_name(name)[1] in READ and size <= TEXT_LIMIT


def make_sample(tar: str, key: str, parts: SampleParts, split_field: str) -> TarSample:
    """A sample, or one whose ``fault`` says what is wrong."""
    sample, image = TarSample(tar, key), parts.image
    try:
        about = read_description(parts.texts)
        sample.captions = find_captions(parts.texts, about)
    except DataError as error:
        # One caption counts as lost, though there may have been more.
        sample.fault, sample.captions = str(error), [None]
        return sample
    if image is None or not image.size:
        sample.fault = "its image is empty" if image else "has no image"
        return sample
    sample.location = in_tar(tar, image.name, image.offset, image.size)
    # What the sample says about itself goes before the name of its tar.
    split = about.get(split_field) or split_of_file(tar)
    sample.split = str(split) if split else None
    sample.labels = labels_of(about.get("labels", about.get("label")))
    sample.labels += labels_of((parts.texts.get(CLASS) or b"").decode("utf-8", "replace").strip())
    return sample


def read_description(texts: dict[str, bytes | None]) -> dict[str, Any]:
    """The object in the sample's json; empty without one.

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


def find_captions(texts: dict[str, bytes | None], about: dict[str, Any]) -> Sequence[object]:
    """A sample's captions: from its text, else from its json.

    Raises:
        DataError: its text is not UTF-8 or too long.
    """
    name = next((name for name in TEXTS if name in texts), None)
    if name is None:
        names = [key for key in about if NUMBERED.fullmatch(key)] or [key for key in CAPTION if key in about][:1]
        return [text for key in names for text in texts_of(about[key])]
    # None marks a text that was too long to be read with the headers.
    content = texts[name]
    if content is None:
        raise DataError(f"its {name} is too long")
    try:
        return text_lines(content)
    except DataError as error:
        raise DataError(f"its {name} {error}") from None
