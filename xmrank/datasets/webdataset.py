"""Reader of WebDataset tars: members of one key are a sample."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from xmrank.datasets.caption_texts import text_lines, texts_of
from xmrank.datasets.columns import CAPTION, NUMBERED
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.labels import labels_of
from xmrank.datasets.locations import in_tar
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.reader_settings import HuggingFaceSettings, WebDatasetSettings
from xmrank.datasets.splits import split_of_file
from xmrank.datasets.tar_index import read_members
from xmrank.datasets.tar_samples import CLASS, JSON, TEXTS, SampleParts, group_members, is_wanted
from xmrank.datasets.uris import expand_pattern, is_folder, list_files, map_threads, suffix_of
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri, below, resolve_uri
from xmrank.runtime.progress import Progress

AT_ONCE = 16
"""Tars whose headers are read at once."""


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
    others: list[str] = []
    with Progress(f"{settings.name}: tars", len(tars)) as progress:
        for start in range(0, len(tars), AT_ONCE):
            part = tars[start : start + AT_ONCE]
            read = partial(read_samples, root, split_field=settings.split_field)
            for in_tar, rest in map_threads(read, part):
                samples += in_tar
                others += rest
            progress.advance(len(part))
    pairs = PairTable(PurePosixPath(str(root)).name)
    if not samples:
        raise DataError(f"{pairs.source}: no samples in its tars; expected members like 0001.jpg and 0001.txt")
    for name in others:
        pairs.left_out.unused[f"members .{PurePosixPath(name).name.partition('.')[2].lower()}"] += 1
    for sample in samples:
        add_sample(pairs, sample)
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


def add_sample(pairs: PairTable, sample: TarSample) -> None:
    """Add a sample's image and captions, or record what is wrong with it."""
    # The key is the id, or tar and key where several tars use the same keys.
    long_name = f"{PurePosixPath(sample.tar).with_suffix('')}/{sample.key}"
    if sample.fault:
        pairs.left_out.add_image(sample.key, sample.fault, len(sample.captions))
        return
    names = (sample.key, long_name)
    row = pairs.add_image((sample.tar, sample.key), sample.location, names, sample.split, sample.labels)
    pairs.captions.add(row, sample.captions)


def read_samples(root: PathOrUri, tar: str, split_field: str) -> tuple[list[TarSample], list[str]]:
    """The samples of one tar, in its order, and the names of the members that belong to none."""
    parts_of, others = group_members(read_members(below(root, tar), tar, is_wanted))
    return [make_sample(tar, key, parts, split_field) for key, parts in parts_of.items()], others


def make_sample(tar: str, key: str, parts: SampleParts, split_field: str) -> TarSample:
    """A sample, or one whose ``fault`` says what is wrong."""
    sample, image = TarSample(tar, key), parts.image
    if parts.occurs_twice:
        sample.fault, sample.captions = "its key occurs twice in the tar", [None]
        return sample
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
