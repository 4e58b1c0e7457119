"""Labelled sets: paired features of images and texts with class labels, in the four parts that the paper has."""

import hashlib
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_json

HELD_OUT = 0.1
"""Share of the training items that validate where a set has no validation items."""
NOISE_STREAM = 0xBAD
"""Separates the draw of wrong labels from other draws under the same seed."""
PARTS = ("train", "validation", "retrieval", "query")
TABLE_1: dict[str, tuple[int, ...]] = {
    "ms-coco": (90, 117218, 1500, 2000, 2000),
    "mirflickr": (24, 17000, 1359, 2000, 2000),
    "wikipedia": (10, 1942, 215, 462, 462),
    "pascal-sentence": (20, 720, 80, 200, 200),
    "nus-wide-10k": (10, 7200, 800, 2000, 2000),
    "xmedianet": (200, 28800, 3200, 4000, 4000),
}
"""The paper's sizes: classes, then the items of each of PARTS."""


@dataclass(frozen=True)
class LabelledItems:
    """Pairs of an image and a text that share labels.

    Attributes:
        image: float32 [items, d of images], rows of unit length unless that is turned off (all zeros stay so).
        text: float32 [items, d of texts], likewise.
        labels: bool [items, classes].
    """

    image: np.ndarray
    text: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: np.ndarray) -> "LabelledItems":
        return LabelledItems(self.image[rows], self.text[rows], self.labels[rows])


@dataclass(frozen=True)
class LabelledSet:
    """A data set with one kind of features.

    Attributes:
        name: of the data set, and of its features.
        train, validation: to learn from, and to stop on.
        retrieval: what is retrieved; a second stage may see its labels.
        query: the queries; their labels are for measuring alone.
        classes: names of the classes.
        notes: what a reader of the figures must know of the splits.
    """

    name: str
    features: str
    train: LabelledItems
    validation: LabelledItems
    retrieval: LabelledItems
    query: LabelledItems
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def several_labels(self) -> bool:
        """Whether some training item has more than one label."""
        return bool((self.train.labels.sum(axis=1) > 1).any())

    @property
    def widths(self) -> tuple[int, int, int]:
        """Length of image features, of text features, number of classes."""
        return self.train.image.shape[1], self.train.text.shape[1], self.train.labels.shape[1]

    @property
    def sizes(self) -> dict[str, int]:
        """Items of each part."""
        return {part: len(getattr(self, part)) for part in PARTS}

    @property
    def fingerprint(self) -> str:
        """sha256 over all arrays and the classes' names."""
        digests = [
            hashlib.sha256(np.ascontiguousarray(getattr(getattr(self, part), side)).data).hexdigest()
            for part in PARTS
            for side in ("image", "text", "labels")
        ]
        shapes = [self.train.image.shape[1], self.train.text.shape[1], *self.sizes.values()]
        return sha256_json([digests, shapes, list(self.classes)])

    def beside_table_1(self) -> str:
        """One line: the set's sizes, and the paper's where it has the set."""
        own = f"{len(self.classes)} classes, " + " / ".join(f"{size:,}" for size in self.sizes.values())
        paper = TABLE_1.get(self.name)
        beside = f"; paper's Table 1: {paper[0]} classes, " + " / ".join(f"{n:,}" for n in paper[1:]) if paper else ""
        return f"{own} (train / validation / retrieval / query){beside}"


def labelled_set(
    name: str,
    features: str,
    parts: dict[str, LabelledItems],
    classes: tuple[str, ...],
    *,
    seed: int,
    source: str,
    unit_length: bool = True,
) -> LabelledSet:
    """A set out of the parts that a file has.

    Args:
        name, features: of the set.
        parts: train and either test or query (and perhaps retrieval); perhaps validation. Any features.
        classes: names of the classes.
        seed: draws a tenth of the training items for validation where there is none.
        source: the file that the messages name.
        unit_length: scale features to unit length.

    Raises:
        DataError: no training items or no queries; features that are not finite; parts that disagree in length.
    """
    given = {part: _check_items(items, f"{source}: {part}", unit_length) for part, items in parts.items()}
    notes = []
    if "train" not in given or not ({"test", "query"} & given.keys()):
        raise DataError(f"{source}: has the parts {', '.join(given) or 'none'}; expected train and test (or query)")
    query = given.get("query", given.get("test"))
    assert query is not None
    retrieval = given.get("retrieval")
    if retrieval is None:
        retrieval = query
        notes.append("the test items are both the queries and the retrieval set")
    train, validation = given["train"], given.get("validation")
    if validation is None:
        # Both parts keep the order of the file, so that only membership is random.
        order = np.random.default_rng(seed).permutation(len(train))
        held = max(1, round(HELD_OUT * len(train)))
        train, validation = train[np.sort(order[held:])], train[np.sort(order[:held])]
        notes.append(f"no validation items in the file: a tenth of its {len(order):,} training items, drawn by seed")
    result = LabelledSet(name, features, train, validation, retrieval, query, classes, tuple(notes))
    _check_lengths(result, source)
    return result


def labels_of(values: list[np.ndarray], source: str) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Label arrays of several parts as bool matrices with the same classes.

    Args:
        values: each [items, classes] of 0 and 1, or the items' class numbers as [items], [items, 1] or [1, items].
        source: the file that the messages name.

    Returns:
        bool [items, classes] of each part, and the classes' names: columns, or the class numbers that occur, in order.

    Raises:
        DataError: neither numbers nor matrices of 0 and 1, or parts of different kinds.
    """
    # MATLAB writes a list of numbers as a matrix with one row or one column.
    flat = [value.reshape(-1) if 1 in value.shape or value.ndim == 1 else value for value in values]
    if all(value.ndim == 1 for value in flat):
        numbers = np.unique(np.concatenate(flat))
        # Infinity is equal to its rounded value.
        if not np.isfinite(numbers).all() or not np.array_equal(numbers, np.round(numbers)):
            raise DataError(f"{source}: labels such as {numbers[0]}; expected class numbers, or a matrix of 0 and 1")
        names = tuple(str(int(number)) for number in numbers)
        return [value[:, None] == numbers for value in flat], names
    widths = {value.shape[1] if value.ndim == 2 else 1 for value in flat}
    if len(widths) > 1:
        raise DataError(f"{source}: labels of {' and '.join(map(str, sorted(widths)))} columns; expected one number")
    if not all(np.isin(value, (0, 1)).all() for value in flat):
        raise DataError(f"{source}: label matrices with other values than 0 and 1")
    return [value.astype(np.bool_) for value in flat], tuple(str(column) for column in range(widths.pop()))


def unit_rows(array: np.ndarray) -> np.ndarray:
    """Rows at unit length as float32; rows of zeros stay."""
    wide = np.asarray(array, np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def join_items(items: LabelledItems, others: LabelledItems) -> LabelledItems:
    """The items of two parts as one."""
    sides = (np.concatenate([getattr(items, s), getattr(others, s)]) for s in ("image", "text", "labels"))
    return LabelledItems(*sides)


def with_labels(items: LabelledItems, labels: np.ndarray) -> LabelledItems:
    """The items with other labels."""
    return replace(items, labels=labels)


def with_label_noise(data: LabelledSet, share: float, seed: int) -> LabelledSet:
    """The set with wrong labels in its training and validation items: another class instead of all that they have.

    Args:
        data: the set.
        share: of the items of both parts, from 0 to 1.
        seed: of which items, and of their classes. More noise changes the items of less noise and others.
    """
    parts = {}
    for stream, part in enumerate(("train", "validation")):
        items = getattr(data, part)
        generator = np.random.default_rng([seed, NOISE_STREAM, stream])
        chosen = generator.permutation(len(items))
        # A draw for every item, so that an item gets the same wrong class whatever the share is.
        scores = np.where(items.labels, -1.0, generator.random(items.labels.shape))
        wrong = np.eye(items.labels.shape[1], dtype=np.bool_)[scores.argmax(axis=1)]
        noisy = (chosen < round(share * len(items))) & ~items.labels.all(axis=1)
        parts[part] = with_labels(items, np.where(noisy[:, None], wrong, items.labels))
    return replace(data, train=parts["train"], validation=parts["validation"])


def _check_items(items: LabelledItems, where: str, unit_length: bool) -> LabelledItems:
    """The items with features as float32, perhaps at unit length."""
    for side in ("image", "text"):
        if len(shape := getattr(items, side).shape) != 2:
            raise DataError(f"{where}: {side} features of shape {list(shape)}, expected [items, dimensions]")
    counts = [len(items.image), len(items.text), len(items.labels)]
    if len(set(counts)) > 1:
        raise DataError(f"{where}: {counts[0]} images, {counts[1]} texts, {counts[2]} labels; expected as many of each")
    if not counts[0]:
        raise DataError(f"{where}: has no items")
    for side in ("image", "text"):
        bad = ~np.isfinite(getattr(items, side)).all(axis=1)
        if bad.any():
            raise DataError(f"{where}: the {side} features of row {int(np.argmax(bad))} hold NaN or infinity")
    scale = unit_rows if unit_length else partial(np.asarray, dtype=np.float32)
    return LabelledItems(scale(items.image), scale(items.text), items.labels)


def _check_lengths(given: LabelledSet, source: str) -> None:
    for side in ("image", "text", "labels"):
        lengths = {part: getattr(getattr(given, part), side).shape[1] for part in PARTS}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{length} in {part}" for part, length in lengths.items())
            raise DataError(f"{source}: {side} rows of different lengths: {told}")
    if len(given.train) < 2:
        raise DataError(f"{source}: {len(given.train)} training item; expected two or more")
