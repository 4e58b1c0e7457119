"""Labelled sets out of our own embedding stores, with their labels or with those of an annotation file."""

import re
from pathlib import Path
from typing import Literal

import numpy as np

from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_json_file
from xmrank.supervised.labelled_set import LabelledItems, LabelledSet, labelled_set, unit_rows

Captions = Literal["first", "mean"]
CLASS_LIMIT = 100_000
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def read_store(
    name: str, features: str, directory: Path, *, captions: Captions, annotations: Path | None, seed: int
) -> LabelledSet:
    """A labelled set out of a store: an item is an image with one text, its first caption or the mean of all.

    Args:
        name, features: of the set.
        directory: of the store.
        captions: which text an image is paired with.
        annotations: COCO's instances JSON, or MIRFlickr's folder of annotations; None: the store's own labels.
        seed: of the validation items, where the store has no split val.

    Raises:
        DataError: a store without labels, or annotations that do not fit its images.
    """
    store = EmbeddingStore.open(directory)
    ids = store.images["image_id"].to_pylist()
    labels, classes = own_labels(store) if annotations is None else read_annotations(ids, annotations)
    rows, text = texts_of(store, captions)
    splits = store.images["split"].to_numpy(zero_copy_only=False)
    named = {split: part for split, part in SPLITS.items() if (splits[rows] == split).any()}
    if "test" not in named and "val" in named:
        named["val"] = "test"  # a store that is split in two reports on val
    parts = {}
    for split, part in named.items():
        chosen = np.flatnonzero(splits[rows] == split)
        parts[part] = LabelledItems(store.gather("image", rows[chosen]), text[chosen], labels[rows[chosen]])
    return labelled_set(name, features, parts, classes, seed=seed, source=str(directory))


def texts_of(store: EmbeddingStore, captions: Captions) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the images that have captions, and one text embedding of each."""
    owner = store.image_of_caption
    rows, first = np.unique(owner, return_index=True)
    if captions == "first":
        return rows, store.gather("text", first)
    sums = np.zeros((len(store.image), store.text.shape[1]), np.float64)
    np.add.at(sums, owner, store.text)
    return rows, unit_rows(sums[rows])


def own_labels(store: EmbeddingStore) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels in the store's table as a matrix."""
    has = "labels" in store.images.column_names  # imported stores know of none
    lists = [labels or [] for labels in store.images["labels"].to_pylist()] if has else []
    if not any(lists):
        raise DataError(f"{store.directory}: no image has labels; give annotations with --labels NAME=PATH")
    numbers = sorted({number for labels in lists for number in labels})
    return make_label_matrix(lists, numbers), tuple(map(str, numbers))


def read_annotations(image_ids: list[str], path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels of images by an annotation file.

    COCO's instances JSON: an image has the categories of its objects. All ids from 1 to the largest count as classes,
    90, as in the paper's Table 1, though 80 of them occur. MIRFlickr: a folder of ``CLASS.txt``, each a list of image
    numbers, without the ``CLASS_r1.txt``: 24 classes; image ids are those of im123.jpg.
    """
    if path.is_dir():
        return _read_mirflickr(image_ids, path)
    try:
        value = read_json_file(path, "--labels")
        categories = {int(entry["id"]): str(entry["name"]) for entry in value["categories"]}
        labels_of: dict[str, set[int]] = {str(entry["id"]): set() for entry in value["images"]}
        for entry in value["annotations"]:
            labels_of[str(entry["image_id"])].add(int(entry["category_id"]))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: not COCO's instances JSON ({type(error).__name__}: {error})") from None
    # All numbers up to the largest are classes, so that one wrong digit could mean millions.
    used = {number for own in labels_of.values() for number in own}
    if wrong := sorted(number for number in used | categories.keys() if not 1 <= number <= CLASS_LIMIT):
        raise DataError(f"{path}: category {wrong[0]}, expected a number from 1 to {CLASS_LIMIT}")
    if unknown := sorted(used - categories.keys()):
        raise DataError(f"{path}: category {unknown[0]} of an annotation is not among the categories")
    # Every image must be known, else its missing labels would count as no label.
    lost = [image for image in image_ids if image not in labels_of]
    if lost:
        raise DataError(f"{path}: knows nothing of image {lost[0]} ({len(lost) - 1} more like it)")
    numbers = list(range(1, max(categories, default=0) + 1))
    return make_label_matrix([sorted(labels_of[image]) for image in image_ids], numbers), tuple(
        categories.get(number, str(number)) for number in numbers
    )


def _read_mirflickr(image_ids: list[str], folder: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    files = [path for path in sorted(folder.glob("*.txt")) if not path.stem.endswith("_r1") and path.is_file()]
    files = [path for path in files if path.stem.lower() != "readme"]
    if not files:
        raise DataError(f"{folder}: no annotations here; expected CLASS.txt, each a list of image numbers")
    numbers = []
    for image in image_ids:
        number = re.search(r"(\d+)(?:\.\w+)?$", image)
        if number is None:
            raise DataError(f"{folder}: image {image} has no number, expected ids such as im123.jpg")
        numbers.append(int(number[1]))
    held = [_read_numbers(file) for file in files]
    labels = np.array([[number in members for members in held] for number in numbers], np.bool_)
    return labels, tuple(file.stem for file in files)


def _read_numbers(path: Path) -> set[int]:
    try:
        return {int(word) for word in path.read_text(encoding="utf-8").split()}
    except ValueError as error:
        raise DataError(f"{path}: not a list of image numbers: {error}") from None


def make_label_matrix(lists: list[list[int]], numbers: list[int]) -> np.ndarray:
    """Lists of class numbers as bool [items, classes]."""
    column = {number: column_number for column_number, number in enumerate(numbers)}
    labels = np.zeros((len(lists), len(numbers)), np.bool_)
    for row, own in enumerate(lists):
        labels[row, [column[number] for number in own]] = True
    return labels
