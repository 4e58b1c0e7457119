"""The two tables that every reader returns, and the checks that all data passes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_json, sha256_table
from xmrank.runtime.paths import PathOrUri

IMAGES = pa.schema(
    {"image_id": pa.string(), "location": pa.string(), "split": pa.string(), "labels": pa.list_(pa.int32())}
)
CAPTIONS = pa.schema({"caption_id": pa.string(), "image_id": pa.string(), "text": pa.string(), "split": pa.string()})


@dataclass(frozen=True)
class Dataset:
    """Paired images and captions.

    Attributes:
        name: the reader's name.
        root: folder that the images' locations are relative to, local or a URI.
        images: image_id, location, split, labels (empty where there are none).
        captions: caption_id, image_id, text, split; in the images' order, captions of one image next to each other.
        left_out: one entry for each item that was skipped, with the reason.
        containers: location → size of the files whose rows are images: the size of a row is not known without reading.
        reasons: how many entries of ``left_out`` there are for each kind of reason.
        unused: what is not broken and was not taken either, such as files of other kinds, and how many there are.
        drawn: whether the splits were drawn, because the data name none.
    """

    name: str
    root: PathOrUri
    images: pa.Table
    captions: pa.Table
    left_out: list[dict[str, Any]] = field(default_factory=list)
    containers: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    drawn: bool = False

    @property
    def fingerprint(self) -> str:
        """sha256 over both tables, and over the containers' sizes if there are any; the root is not part of it."""
        tables = sha256_table(self.images) + sha256_table(self.captions)
        return tables + (sha256_json(self.containers) if self.containers else "")


def check_dataset(dataset: Dataset, source: str) -> Dataset:
    """The data set with captions in the images' order, after the checks that hold for every reader.

    Args:
        dataset: what a reader read.
        source: the file that the messages name.

    Raises:
        DataError: no images or captions, an id that occurs twice, an empty caption, or a caption of an image that is
            not in the table.
    """
    images, captions = dataset.images, dataset.captions
    for table, what in ((images, "images"), (captions, "captions")):
        if not len(table):
            raise DataError(f"{source}: no {what} in it; expected at least one")
    for ids, what in ((images["image_id"].to_pylist(), "image id"), (captions["caption_id"].to_pylist(), "caption id")):
        # An empty id would be a missing field in the lines of a TREC run.
        refuse_first([row for row, name in enumerate(ids) if not name], source, f"{what} of row {{}} is empty")
        refuse_duplicates(ids, source, what)
    empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(captions["text"], ""))), 0)
    refuse_first(captions.filter(empty)["caption_id"].to_pylist(), source, "caption {} is empty")
    # Sorted by the image's index, then by their own: captions may come in any order, and stable sorting is not offered.
    position = pc.index_in(captions["image_id"], images["image_id"])
    orphans = captions.filter(pc.is_null(position)).select(["caption_id", "image_id"]).to_pylist()
    pairs = [f'{row["caption_id"]} belongs to image "{row["image_id"]}"' for row in orphans]
    refuse_first(pairs, source, "caption {}, which is not among the images")
    if bool(pc.all(pc.greater_equal(position[1:], position[:-1])).as_py()):
        return replace(dataset, captions=captions.combine_chunks())
    ordered = captions.append_column("position", position).append_column("number", pa.array(range(len(captions))))
    ordered = ordered.sort_by([("position", "ascending"), ("number", "ascending")]).select(CAPTIONS.names)
    return replace(dataset, captions=ordered.combine_chunks())


def refuse_first(items: Sequence[object], source: str, message: str) -> None:
    """Raise DataError that names the first of some faulty items and how many more there are; nothing without any."""
    if items:
        more = f" ({len(items) - 1} more like it)" if len(items) > 1 else ""
        raise DataError(f"{source}: {message.format(items[0])}{more}")


def refuse_duplicates(ids: Sequence[str], source: str, what: str) -> None:
    """Raise DataError when an id occurs more than once."""
    # As a rule all are different, which is faster to see than to count.
    if len(set(ids)) < len(ids):
        twice = [value for value, count in Counter(ids).items() if count > 1]
        refuse_first(twice, source, f'{what} "{{}}" occurs more than once')
