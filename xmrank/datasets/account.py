"""The account of a data set: what is in it, what is left out of it, and what is not used."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KINDS_SHOWN = 6
"""Kinds of things that a line names, of those that are left out or not used."""
USUAL_ORDER = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class DataAccount:
    """What a data set holds.

    Attributes:
        images, captions: how many there are.
        least, mean, most: captions an image.
        splits: images in each split.
        copies: images with the same bytes as another image of their split ("within"), or of another split ("across");
            None where the bytes are not known.
        left_out: items that are left out, by reason.
        unused: what else is not taken.
    """

    images: int
    captions: int
    least: int
    mean: float
    most: int
    splits: Mapping[str, int]
    copies: Mapping[str, int] | None
    left_out: Mapping[str, int]
    unused: Mapping[str, int]

    @classmethod
    def from_tables(
        cls,
        images: pa.Table,
        captions: pa.Table,
        left_out: Mapping[str, int] | None = None,
        unused: Mapping[str, int] | None = None,
    ) -> "DataAccount":
        """The account of tables with image_id and split, and sha256 where the images' bytes are known."""
        owners = pc.index_in(captions["image_id"], images["image_id"]).to_numpy()
        counts = np.bincount(owners, minlength=len(images)) if len(images) else np.zeros(1)
        names = pc.value_counts(images["split"]).to_pylist()
        return cls(
            images=len(images),
            captions=len(captions),
            least=int(counts.min()),
            mean=round(float(counts.mean()), 2),
            most=int(counts.max()),
            splits={entry["values"]: entry["counts"] for entry in names},
            copies=count_copies(images) if "sha256" in images.column_names else None,
            left_out=dict(left_out or {}),
            unused=dict(unused or {}),
        )

    def describe(self) -> str:
        """The account in one line."""
        parts = [
            f"{self.images} images, {self.captions} captions",
            f"captions an image: {self.least} to {self.most}, mean {self.mean:g}",
            "splits: " + ", ".join(f"{name} {self.splits[name]}" for name in sorted(self.splits, key=order_split)),
        ]
        if self.copies is not None:
            within, across = self.copies["within"], self.copies["across"]
            parts.append(f"images with the bytes of another: {within} within a split, {across} across splits")
        parts.append(f"left out: {list_kinds(self.left_out) or 'nothing'}")
        if self.unused:
            parts.append(f"not used: {list_kinds(self.unused)}")
        return "; ".join(parts)


def order_split(name: str) -> tuple[int, str]:
    """Sorts splits: train, val, test, and all others by name."""
    return USUAL_ORDER.get(name, len(USUAL_ORDER)), name


def list_kinds(counts: Mapping[str, int]) -> str:
    """The most frequent kinds with their numbers; what there is one of needs none."""
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    shown = [f"{kind} ({count})" if count > 1 else kind for kind, count in ordered[:KINDS_SHOWN]]
    more = [f"{len(ordered) - KINDS_SHOWN} other kinds"] if len(ordered) > KINDS_SHOWN else []
    return ", ".join(shown + more)


def count_copies(images: pa.Table) -> dict[str, int]:
    """How many images have the same bytes as another image of their own split, and as one of another split.

    Args:
        images: with split and sha256; images whose hash is null are not known to be equal to any.
    """
    known = images.filter(pc.is_valid(images["sha256"]))
    groups = known.group_by("sha256", use_threads=False).aggregate([("split", "count"), ("split", "count_distinct")])
    several = pc.greater(groups["split_count_distinct"], 1)
    across = pc.sum(groups.filter(several)["split_count"]).as_py() or 0
    pairs = known.group_by(["sha256", "split"], use_threads=False).aggregate([("image_id", "count")])
    within = pc.sum(pairs.filter(pc.greater(pairs["image_id_count"], 1))["image_id_count"]).as_py() or 0
    return {"within": within, "across": across}


def keep_copies_together(images: pa.Table) -> pa.Table:
    """The images, each in the split of the first image with its bytes: for splits that were drawn.

    A copy of a training image that is tested with makes figures too good; as a wrong answer it makes them too bad.

    Args:
        images: with split and sha256.
    """
    # Of an image without a hash no copy is known.
    own = pa.array([f"row {row}" for row in range(len(images))])
    codes = pc.coalesce(images["sha256"], own).combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.unique(codes, return_index=True)[1]
    position = images.column_names.index("split")
    return images.set_column(position, images.schema.field(position), images["split"].take(pa.array(first[codes])))


def account_of(settings: Mapping[str, Any]) -> DataAccount | None:
    """The account that a manifest's settings hold; None in a store of an earlier version, or where it is damaged."""
    values = settings.get("account")
    names = [field.name for field in fields(DataAccount)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        return None
    numbers = [values[name] for name in ("images", "captions", "least", "mean", "most")]
    for name in ("splits", "left_out", "unused", "copies"):
        counts = values[name]
        if name == "copies" and counts is None:
            continue
        if not isinstance(counts, dict) or (name == "copies" and sorted(counts) != ["across", "within"]):
            return None
        numbers += counts.values()
    return DataAccount(**values) if all(type(number) in (int, float) for number in numbers) else None
