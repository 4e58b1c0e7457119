"""Before anything is encoded: distinct captions, shards, and what an interrupted run has finished."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmrank.datasets.dataset import Dataset
from xmrank.embed.reuse import find_texts
from xmrank.embed.shards import Shard, read_reports, remove_changed_report, write_items
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below


@dataclass(frozen=True)
class ShardPlan:
    """Everything that has to be encoded.

    Attributes:
        shards: images first, because they take longest.
        text_of: index of every caption among the distinct captions, int64 [captions].
        copied_texts: which distinct captions are copied from another store, bool [distinct captions].
    """

    shards: list[Shard]
    text_of: np.ndarray
    copied_texts: np.ndarray

    @property
    def count(self) -> int:
        """Number of images and distinct captions."""
        return sum(map(len, self.shards))

    def select_kind(self, kind: str) -> list[Shard]:
        """The shards of images, or of captions."""
        return [shard for shard in self.shards if shard.kind == kind]


def make_plan(dataset: Dataset, size: int, work: Path, known: EmbeddingStore | None = None) -> ShardPlan:
    """Write the tables of items to encode, and divide them into shards.

    Captions of the same text are one item, in the order of first appearance: that depends on the data alone, so that
    batches are the same in every run.
    """
    locations = dataset.images["location"].to_pylist()
    # Full addresses, so that a shard can be encoded by a process that knows nothing else.
    addresses = pa.array([below(dataset.root, location) for location in locations], pa.string())
    # Whether an image can be copied is only known from its bytes, when it is read.
    images = write_items(work, "image", addresses, pa.nulls(len(addresses), pa.int64()), size)
    texts = dataset.captions["text"]
    distinct = pc.unique(texts)
    copied = find_texts(known, distinct) if known else pa.nulls(len(distinct), pa.int64())
    shards = images + write_items(work, "text", distinct, copied, size)
    text_of = pc.index_in(texts, distinct).to_numpy().astype(np.int64)
    return ShardPlan(shards, text_of, pc.is_valid(copied).to_numpy(zero_copy_only=False))


@dataclass
class EarlierStore:
    """What an interrupted run left.

    Attributes:
        missing: shards without a report, or with images that have changed since.
        broken: number of broken images in the other shards.
        settings: of the run; empty where no shard was finished.
    """

    missing: list[Shard]
    broken: int
    settings: dict[str, Any]


def find_earlier(plan: ShardPlan, work: Path) -> EarlierStore:
    """What is finished and what is missing; reports are read a few at a time."""
    earlier = EarlierStore([], 0, {})
    # One look at the folder: in an object store, each question is a request.
    there = {path.name for path in work.iterdir()}
    done = [shard for shard in plan.shards if shard.report_path(work).name in there]
    changed = set()
    for shard, report in zip(done, read_reports(done, work), strict=True):
        if remove_changed_report(shard, report, work):
            changed.add(shard)
        else:
            earlier.broken += len(report.broken)
            # All reports of a run have the same.
            earlier.settings = report.settings
    kept = set(done) - changed
    earlier.missing += [shard for shard in plan.shards if shard not in kept]
    return earlier


def refuse_other_reuse(settings: dict[str, Any], known: EmbeddingStore | None, output: Path) -> None:
    """Refuse to finish with ``--reuse`` a store that was started without it, or with another.

    Raises:
        DataError: says how the store was started.
    """
    # Shards that were encoded and shards that were copied would differ in their last digits.
    wanted = known.fingerprint if known else None
    if settings and settings["reuse"] != wanted:
        begun = f"with --reuse of the store {settings['reuse'][:12]}…" if settings["reuse"] else "without --reuse"
        raise DataError(f"{output}: was started {begun}; continue that way, or give --overwrite")
