"""Which array of a feature file is what: told by the words that its name is made of."""

import re
from pathlib import Path

import numpy as np

from xmrank.runtime.errors import DataError
from xmrank.supervised.arrays import Arrays, read_arrays
from xmrank.supervised.labelled_set import LabelledItems, LabelledSet, labelled_set, labels_of

SPLIT_WORDS = {
    "train": ("train", "tr", "trainset", "training"),
    "validation": ("val", "valid", "validation"),
    "retrieval": ("retrieval", "database", "db", "gallery"),
    "query": ("query",),
    "test": ("test", "te", "testset"),
}
KIND_WORDS = {
    "labels": ("label", "labels", "lab", "labs", "cat", "cats", "category", "l"),
    "image": ("image", "images", "img", "imgs", "i"),
    "text": ("text", "texts", "txt", "txts", "t"),
}
"""In this order: train_img_lab are labels."""
CLASS_LISTS = ("categories.list", "classes.txt")


def read_features(name: str, features: str, path: Path, seed: int, *, unit_length: bool = True) -> LabelledSet:
    """A labelled set out of a file, or out of all files of a folder.

    The names that the field uses: I_tr T_tr I_te T_te with lists of classes (the classic Wikipedia files), train_img
    train_txt train_img_lab … (DSCMR, ALGCN), train_imgs_deep train_text train_imgs_labels … (SDML), I_tr_CNN T_tr_BOW
    trImgCat … (XMedia), image text label in clip_train.pkl … (CLIP4CMR), and others of these words.

    Args:
        name: of the data set.
        features: of its features; where several arrays are the same part, ``image+text`` names a word of each
            (``cnn+bow``).
        path: of the file or folder.
        seed: of the validation items, where the file has none.
        unit_length: scale features to unit length.

    Raises:
        DataError: an array that is missing or stands twice; the message names what the file holds.
    """
    arrays = read_arrays(path)
    slots = find_slots(arrays, features, str(path))
    splits = [split for split in SPLIT_WORDS if (split, "image") in slots or (split, "text") in slots]
    if not splits:
        raise DataError(f"{path}: no features of a part; the file holds {', '.join(sorted(arrays)) or 'no arrays'}")
    for split in splits:
        for kind in KIND_WORDS:
            if (split, kind) not in slots:
                raise DataError(f"{path}: no {kind} of the part {split}; the file holds {', '.join(sorted(arrays))}")
    labels, classes = labels_of([slots[split, "labels"] for split in splits], str(path))
    parts = {
        split: LabelledItems(slots[split, "image"], slots[split, "text"], own)
        for split, own in zip(splits, labels, strict=True)
    }
    names = class_names(path, classes)
    return labelled_set(name, features, parts, names, seed=seed, source=str(path), unit_length=unit_length)


def find_slots(arrays: Arrays, features: str, source: str) -> dict[tuple[str, str], np.ndarray]:
    """The array of each part and kind.

    Raises:
        DataError: two feature arrays of one part, or labels of images and texts that differ.
    """
    wanted = dict(zip(("image", "text"), features.lower().split("+"), strict=False)) if "+" in features else {}
    by_part: dict[tuple[str, str], list[str]] = {}
    for key in sorted(arrays):
        split, kind = read_array_name(key)
        if split and kind:
            by_part.setdefault((split, kind), []).append(key)
    slots = {}
    for (split, kind), keys in by_part.items():
        # A word of the set's name chooses where a file holds several features of a modality.
        named = [key for key in keys if wanted.get(kind) in words(key)]
        chosen = named or keys
        # Labels may be given once for images and once for texts, as long as they agree.
        same = all(np.array_equal(np.ravel(arrays[key]), np.ravel(arrays[chosen[0]])) for key in chosen)
        if len(chosen) > 1 and kind == "labels" and not same:
            raise DataError(f"{source}: {' and '.join(chosen)} differ; expected pairs that share their labels")
        if len(chosen) > 1 and kind != "labels":
            raise DataError(
                f"{source}: {' and '.join(chosen)} are both {kind}s of the part {split}; name one word of each kind in "
                "the set's name: NAME/IMAGE+TEXT=PATH"
            )
        slots[split, kind] = arrays[chosen[0]]
    return slots


def read_array_name(key: str) -> tuple[str | None, str | None]:
    """The part and kind that an array's name tells; None for what it does not tell."""
    own = words(key)
    split = next((split for split, names in SPLIT_WORDS.items() if own & set(names)), None)
    kind = next((kind for kind, names in KIND_WORDS.items() if own & set(names)), None)
    return split, kind


def words(key: str) -> set[str]:
    """The words of a name, in small letters: trImgCat → tr, img, cat; I_te_CNN → i, te, cnn."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", key)}


def class_names(path: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The names in a list of classes beside the features, where it has as many; else the given ones."""
    folder = path if path.is_dir() else path.parent
    for name in CLASS_LISTS:
        if (folder / name).is_file():
            names = tuple(line.strip() for line in (folder / name).read_text().splitlines() if line.strip())
            if len(names) == len(classes):
                return names
    return classes
