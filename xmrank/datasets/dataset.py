"""The two tables that every reader returns, and the checks that all data passes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import sha256_json, sha256_table
from xmrank.runtime.paths import Place

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
        captions: caption_id, image_id, text, split; captions of one image stand together, in the images' order.
        left_out: one entry an item that was skipped, with the reason.
        containers: location → size of the files whose rows are images, and whose rows' sizes only reading would tell.
    """

    name: str
    root: Place
    images: pa.Table
    captions: pa.Table
    left_out: list[dict[str, Any]] = field(default_factory=list)
    containers: dict[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """sha256 over both tables, and over the containers' sizes where there are any."""
        tables = sha256_table(self.images) + sha256_table(self.captions)
        return tables + (sha256_json(self.containers) if self.containers else "")


def check_dataset(dataset: Dataset, source: str) -> Dataset:
    """The data set with captions in the images' order, after the checks that hold for every reader.

    Args:
        dataset: what a reader read.
        source: the file that the messages name.

    Raises:
        DataError: no images or captions, an id that stands twice, an empty caption, a caption of an image that is not
            there.
    """
    images, captions = dataset.images, dataset.captions
    for table, what in ((images, "images"), (captions, "captions")):
        if not len(table):
            raise DataError(f"{source}: no {what} in it; expected at least one")
    refuse_duplicates(images["image_id"].to_pylist(), source, "image id")
    refuse_duplicates(captions["caption_id"].to_pylist(), source, "caption id")
    empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(captions["text"], ""))), 0)
    refuse_first(captions.filter(empty)["caption_id"].to_pylist(), source, "caption {} is empty")
    position = pc.index_in(captions["image_id"], images["image_id"])
    strangers = captions.filter(pc.is_null(position))
    pairs = [f'{c} belongs to image "{i}"' for c, i in zip(strangers["caption_id"], strangers["image_id"], strict=True)]
    refuse_first(pairs, source, "caption {}, which is not among the images")
    ordered = captions.append_column("position", position).append_column("at", pa.array(range(len(captions))))
    ordered = ordered.sort_by([("position", "ascending"), ("at", "ascending")]).select(CAPTIONS.names)
    return replace(dataset, captions=ordered.combine_chunks())


def refuse_first(items: Sequence[object], source: str, message: str) -> None:
    """Raise DataError naming the first of the offending items and how many more there are; nothing without any."""
    if items:
        more = f" ({len(items) - 1} more like it)" if len(items) > 1 else ""
        raise DataError(f"{source}: {message.format(items[0])}{more}")


def refuse_duplicates(ids: Sequence[str], source: str, what: str) -> None:
    """Raise DataError when an id stands twice."""
    twice = [i for i, n in Counter(ids).items() if n > 1]
    refuse_first(twice, source, f'{what} "{{}}" stands more than once')
