"""After all shards are encoded: the tokens of their items become the store's token arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmrank.embed.planning import ShardPlan
from xmrank.embed.token_shards import TokenPaths
from xmrank.embed.token_store import Side, count_to_offsets, token_path, token_rows
from xmrank.runtime.files import write_array, write_rows
from xmrank.runtime.storage import local_copy

BLOCK = 4096
"""Items whose tokens are in memory at once."""


@dataclass(frozen=True)
class TokenParts:
    """The tokens of consecutive shards.

    Attributes:
        paths: of every shard's files.
        starts: number of each shard's first item, and of all items at the end, int64 [shards + 1].
        counts: tokens of every item, int64 [items].
    """

    paths: list[TokenPaths]
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def open(cls, paths: list[TokenPaths]) -> "TokenParts":
        """Read how many tokens the items of the shards have."""
        counts = [np.load(local_copy(path.counts), allow_pickle=False) for path in paths]
        return cls(paths, count_to_offsets(np.array([len(part) for part in counts])), np.concatenate(counts))

    def first_file(self, part: str) -> np.ndarray | None:
        """The first shard's array of ``values`` or ``scales``; None: no shard has one."""
        existing = (path for path in (getattr(paths, part) for paths in self.paths) if path.is_file())
        first = next(existing, None)
        return None if first is None else np.load(local_copy(first), mmap_mode="r", allow_pickle=False)

    def read_blocks(self, part: str, items: np.ndarray) -> Iterator[np.ndarray]:
        """The ``values`` or ``scales`` of chosen items, item by item, a block at a time.

        Args:
            part: which of the arrays.
            items: numbered through all shards, in any order; one may occur more than once.
        """
        for start in range(0, len(items), BLOCK):
            yield self._read_block(part, items[start : start + BLOCK])

    def _read_block(self, part: str, items: np.ndarray) -> np.ndarray:
        first = self.first_file(part)
        assert first is not None
        bounds = count_to_offsets(self.counts[items])
        block = np.empty((bounds[-1], *first.shape[1:]), first.dtype)
        of_shard = np.searchsorted(self.starts, items, side="right") - 1
        for shard in np.unique(of_shard):
            chosen = np.flatnonzero(of_shard == shard)
            begin, end = self.starts[shard], self.starts[shard + 1]
            rows = token_rows(count_to_offsets(self.counts[begin:end]), items[chosen] - begin)
            # A shard whose chosen items have no tokens may have no file.
            if len(rows):
                array = np.load(local_copy(getattr(self.paths[shard], part)), mmap_mode="r", allow_pickle=False)
                block[token_rows(bounds, chosen)] = array[rows]
        return block


def write_tokens(directory: Path, work: Path, plan: ShardPlan, chosen: dict[Side, np.ndarray]) -> dict[str, int]:
    """Write the token arrays of both sides.

    Args:
        directory: of the store.
        work: folder of the shards' files.
        plan: of the shards.
        chosen: for every row of a side, its item among those that were encoded.

    Returns:
        How many tokens each side has: image_tokens, text_tokens.
    """
    counts = {}
    for side, items in chosen.items():
        parts = TokenParts.open([TokenPaths.beside(shard.array_path(work)) for shard in plan.select_kind(side)])
        offsets = count_to_offsets(parts.counts[items])
        write_array(token_path(directory, side, "token_offsets"), offsets)
        for part, name in (("values", "tokens"), ("scales", "token_scales")):
            first = parts.first_file(part)
            if first is not None:
                shape = (int(offsets[-1]), *first.shape[1:])
                write_rows(token_path(directory, side, name), parts.read_blocks(part, items), shape, first.dtype)
        counts[f"{side}_tokens"] = int(offsets[-1])
    return counts
