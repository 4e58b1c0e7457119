"""Before anything is encoded: distinct captions, shards, and what an interrupted run has settled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmrank.datasets.dataset import Dataset
from xmrank.embed.reuse import known_texts
from xmrank.embed.shards import Shard, forget_changed, read_report, write_items
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import below


@dataclass(frozen=True)
class ShardPlan:
    """All that is to be encoded.

    Attributes:
        shards: images first: they are the slow ones.
        text_of: which of the distinct captions each caption is, int64 [captions].
        copied_texts: whether each of the distinct captions is taken over from another store.
    """

    shards: list[Shard]
    text_of: np.ndarray
    copied_texts: np.ndarray

    @property
    def items(self) -> int:
        """Images and distinct captions."""
        return sum(map(len, self.shards))

    def of_kind(self, kind: str) -> list[Shard]:
        """The shards of images, or of captions."""
        return [shard for shard in self.shards if shard.kind == kind]


def make_plan(dataset: Dataset, size: int, work: Path, known: EmbeddingStore | None = None) -> ShardPlan:
    """Write the tables of what is to be encoded, and cut them into shards.

    Captions of the same text are one item, in the order in which they first appear: that depends on the data alone, so
    that batches are the same in every run.
    """
    locations = dataset.images["location"].to_pylist()
    addresses = pa.array([below(dataset.root, location) for location in locations], pa.string())
    images = write_items(work, "image", addresses, pa.nulls(len(addresses), pa.int64()), size)
    texts = dataset.captions["text"]
    distinct = pc.unique(texts)
    copied = known_texts(known, distinct) if known else pa.nulls(len(distinct), pa.int64())
    shards = images + write_items(work, "text", distinct, copied, size)
    text_of = pc.index_in(texts, distinct).to_numpy().astype(np.int64)
    return ShardPlan(shards, text_of, pc.is_valid(copied).to_numpy(zero_copy_only=False))


@dataclass
class EarlierStore:
    """What earlier runs left.

    Attributes:
        missing: shards without a report, or with images that have changed since.
        broken: broken images in the others.
        settings: what they were made with; empty where there are none.
    """

    missing: list[Shard]
    broken: int
    settings: dict[str, Any]


def look_back(plan: ShardPlan, work: Path) -> EarlierStore:
    """Find out what is left to do; reports are read one at a time."""
    earlier = EarlierStore([], 0, {})
    for shard in plan.shards:
        report = read_report(shard, work)
        if report is None or forget_changed(shard, report, work):
            earlier.missing.append(shard)
        else:
            earlier.broken += len(report.broken)
            earlier.settings = report.settings
    return earlier


def refuse_other_reuse(settings: dict[str, Any], known: EmbeddingStore | None, output: Path) -> None:
    """Refuse to finish with ``--reuse`` what was begun without it, or with another store.

    Raises:
        DataError: names what it was begun with.
    """
    wanted = known.fingerprint if known else None
    if settings and settings["reuse"] != wanted:
        begun = f"with --reuse of the store {settings['reuse'][:12]}…" if settings["reuse"] else "without --reuse"
        raise DataError(f"{output}: was begun {begun}; go on so, or --overwrite")
