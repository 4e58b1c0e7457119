"""Which image and which caption every row of a store is, and the checks of ids and array shapes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xmrank.datasets.dataset import refuse_duplicates, refuse_first
from xmrank.datasets.splits import usual_split
from xmrank.runtime.errors import DataError


@dataclass(frozen=True)
class RowIds:
    """The ids of a store's rows, in row order.

    Attributes:
        image_ids, splits: one for each image.
        caption_ids, caption_image: one for each caption; caption_image is the row of its image.
        texts: one for each caption, or None where they are not known.
    """

    image_ids: Sequence[str]
    splits: Sequence[str]
    caption_ids: Sequence[str]
    caption_image: Sequence[int]
    texts: Sequence[str] | None = None

    def image_table(self) -> pa.Table:
        """The table of image rows: row, image_id, split."""
        return pa.table(
            {
                "row": pa.array(range(len(self.image_ids)), pa.int32()),
                "image_id": pa.array(self.image_ids, pa.string()),
                "split": pa.array(self.splits, pa.string()),
            }
        )

    def caption_table(self) -> pa.Table:
        """The table of caption rows: row, caption_id, image_id, image_row, split (its image's), text (or null)."""
        rows = self.caption_image
        texts: Sequence[str | None] = self.texts or [None] * len(rows)
        return pa.table(
            {
                "row": pa.array(range(len(rows)), pa.int32()),
                "caption_id": pa.array(self.caption_ids, pa.string()),
                "image_id": pa.array([self.image_ids[row] for row in rows], pa.string()),
                "image_row": pa.array(rows, pa.int32()),
                "split": pa.array([self.splits[row] for row in rows], pa.string()),
                "text": pa.array(texts, pa.string()),
            }
        )


def make_row_ids(
    images: int,
    captions: int,
    *,
    caption_image: Sequence[int] | np.ndarray | None = None,
    image_ids: Sequence[object] | None = None,
    caption_ids: Sequence[object] | None = None,
    splits: Sequence[str] | None = None,
) -> RowIds:
    """The ids of rows, completed and checked.

    Args:
        images, captions: how many rows there are.
        caption_image: the image row of every caption; None: image by image, the same number for each.
        image_ids, caption_ids: None: the row numbers.
        splits: one for each image; None: all are "train".

    Raises:
        DataError: no rows, a sequence of another length, an id that is empty or occurs twice, or an image row out of
            range.
    """
    ids = {}
    for name, given, count in (("image_ids", image_ids, images), ("caption_ids", caption_ids, captions)):
        ids[name] = make_ids(range(count) if given is None else given, name, "id")
        check_length(ids[name], name, count)
    # The common layout, and the only one that needs no column.
    if caption_image is None:
        if not images or captions % images:
            raise DataError(f"caption_image: expected the image row of every caption ({captions} for {images} images)")
        each = captions // images
        rows = [row // each for row in range(captions)]
    else:
        rows = np.asarray(caption_image).tolist()
        check_length(rows, "caption_image", captions)
    check_caption_image(rows, images, "caption_image")
    # One split is enough to mine and to train on.
    names = ["train"] * images if splits is None else [usual_split(str(split)) for split in splits]
    check_length(names, "splits", images)
    return RowIds(ids["image_ids"], names, ids["caption_ids"], rows)


def make_ids(values: Iterable[object], source: str, what: str) -> list[str]:
    """Ids as texts.

    Args:
        values: texts or numbers.
        source: the file or argument that messages name.
        what: what messages call an id.

    Raises:
        DataError: no ids, one that is empty or neither text nor a number, or one that occurs twice.
    """
    ids = []
    for row, value in enumerate(values):
        # An empty id would be a missing field in the lines of a TREC run.
        if value is None or isinstance(value, bool | list | tuple | dict) or not str(value).strip():
            raise DataError(f"{source}: {what} of row {row} is {value!r}, expected text or a number")
        ids.append(str(value))
    if not ids:
        raise DataError(f"{source}: no {what}s in it; expected at least one")
    refuse_duplicates(ids, source, what)
    return ids


def check_length(values: Sequence[object], name: str, count: int) -> None:
    """Raise DataError unless there is a value for every row."""
    if len(values) != count:
        raise DataError(f"{name}: {len(values)} values, expected one for each row: {count}")


def check_caption_image(rows: Sequence[Any], images: int, source: str) -> None:
    """Raise DataError when an entry of the column ``caption_image`` is not the row of an image."""
    wrong = []
    for caption, row in enumerate(rows):
        # JSON's true is an int to Python, but not a row.
        if type(row) is not int or not 0 <= row < images:
            wrong.append(f"{caption}: {row}")
    refuse_first(wrong, source, f"row {{}}, expected an image row from 0 to {images - 1}")


def check_row_count(array: np.ndarray, name: str, count: int, source: str) -> None:
    """Raise DataError unless the array is a matrix with ``count`` rows.

    Args:
        array: expected [count, d].
        name: what the message calls the array.
        count: how many rows it must have.
        source: what says so, such as "ids.json has 10 caption_ids".
    """
    if array.ndim != 2:
        raise DataError(f"{name}: shape {list(array.shape)}, expected [items, dimensions]")
    if len(array) != count:
        raise DataError(f"{name}: {len(array)} rows, but {source}")


def check_dimensions(image: np.ndarray, image_name: str, text: np.ndarray, text_name: str) -> None:
    """Raise DataError when the embeddings of images and captions differ in length."""
    if image.shape[1] != text.shape[1]:
        raise DataError(f"{text_name}: {text.shape[1]} dimensions, but {image_name} has {image.shape[1]}")
