"""The tokens of a store's images or captions: several vectors an item, one item's after the other's."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from xmrank.runtime.errors import DataError
from xmrank.runtime.storage import local_copy

Side = Literal["image", "text"]
NO_TOKENS = "no tokens in this store; make one with `xmrank embed --tokens`"
INT8_LIMIT = 127
"""The largest number of an int8 token; −128 is not used, so that a token and its opposite are equally exact."""


@dataclass(frozen=True)
class TokenArray:
    """The tokens of all items of one side.

    Attributes:
        values: [tokens of all items, width], float16, float32 or int8; memory-mapped where the store is a directory.
        offsets: int64 [items + 1]; the tokens of item i are the rows ``offsets[i]`` … ``offsets[i + 1]``.
        scales: of int8 values, float32 [tokens of all items]: a token is its values times its scale.

    Raises:
        DataError: arrays whose shapes or types do not fit.

    >>> tokens = TokenArray(np.eye(3, dtype=np.float16), np.array([0, 2, 3]))
    >>> gathered, mask = tokens.gather(np.array([1, 0]))
    >>> gathered.tolist()
    [[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    >>> mask.tolist()
    [[True, False], [True, True]]
    """

    values: np.ndarray
    offsets: np.ndarray
    scales: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype not in (np.float16, np.float32, np.int8):
            raise DataError(
                f"tokens: shape {list(self.values.shape)} of {self.values.dtype}, "
                "expected [tokens, width] of float16, float32 or int8"
            )
        check_offsets(self.offsets, len(self.values), "token offsets")
        if (self.scales is not None) != (self.values.dtype == np.int8):
            raise DataError("tokens: int8 values need scales, and only they have them")
        if self.scales is not None and self.scales.shape != (len(self.values),):
            raise DataError(f"token scales: shape {list(self.scales.shape)}, expected [{len(self.values)}]")

    @classmethod
    def open(cls, directory: Path, side: Side) -> "TokenArray":
        """The tokens of one side in a store's directory, memory-mapped.

        Raises:
            DataError: a file is missing, or they do not fit each other.
        """
        files = {part: token_path(directory, side, part) for part in ("tokens", "token_offsets", "token_scales")}
        for part, path in files.items():
            if part != "token_scales" and not path.is_file():
                raise DataError(f"{path}: is missing")
        # Copy on write, as for the vectors: torch takes such a map without a copy, and nothing here writes.
        values, offsets, scales = (
            np.load(local_copy(path), mmap_mode="c", allow_pickle=False) if path.is_file() else None
            for path in files.values()
        )
        assert values is not None and offsets is not None
        return cls(values, offsets, scales)

    @classmethod
    def from_vectors(cls, vectors: np.ndarray) -> "TokenArray":
        """One token an item: its vector [items, d]. It stands in for the tokens of a side that has none."""
        return cls(vectors, np.arange(len(vectors) + 1, dtype=np.int64))

    def __len__(self) -> int:
        """The number of items."""
        return len(self.offsets) - 1

    @property
    def width(self) -> int:
        """Numbers in a token."""
        return int(self.values.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """The type of the stored numbers."""
        return self.values.dtype

    @cached_property
    def counts(self) -> np.ndarray:
        """Tokens of every item, int64 [items]."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """The most tokens that an item has; 0 without items."""
        return int(self.counts.max(initial=0))

    @cached_property
    def regular(self) -> bool:
        """Whether all items have the same number of tokens, at least one."""
        return self.longest > 0 and int(self.counts.min()) == self.longest

    def gather(self, rows: np.ndarray, longest: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of chosen items, padded with zeros.

        Args:
            rows: of the items, integers of any shape; a row may occur more than once.
            longest: tokens to pad to; None: as many as the longest of these items has. Give the array's ``longest``
                where shapes must not depend on the batch.

        Returns:
            The tokens, float32 [*rows, longest, width], and where they are real, bool [*rows, longest].
        """
        rows = np.asarray(rows, np.int64)
        if self.regular and longest in (None, self.longest):
            return self._gather_regular(rows), np.ones((*rows.shape, self.longest), bool)
        counts = self.counts[rows]
        longest = int(counts.max(initial=0)) if longest is None else longest
        if counts.size and counts.max() > longest:
            raise ValueError(f"longest {longest}: an item has {counts.max()} tokens")
        mask = np.arange(longest) < counts[..., None]
        result = np.zeros((*mask.shape, self.width), np.float32)
        # The mask's order is that of the rows, and within a row that of its tokens.
        result[mask] = self._read(token_rows(self.offsets, rows.reshape(-1)))
        return result, mask

    def _gather_regular(self, rows: np.ndarray) -> np.ndarray:
        """As `gather` where every item has as many tokens: one index over blocks of a token count times a width."""
        blocks = self.values.reshape(len(self), self.longest, self.width)
        result: np.ndarray = blocks[rows].astype(np.float32)
        if self.scales is not None:
            result *= self.scales.reshape(len(self), self.longest)[rows][..., None]
        return result

    def _read(self, tokens: np.ndarray) -> np.ndarray:
        """Chosen tokens, float32 [tokens, width]."""
        result: np.ndarray = self.values[tokens].astype(np.float32)
        if self.scales is not None:
            result *= self.scales[tokens][:, None]
        return result


def token_path(directory: Path, side: Side, part: str) -> Path:
    """The file of a side's ``tokens``, ``token_offsets`` or ``token_scales``."""
    return directory / f"{side}_{part}.npy"


def open_tokens(directory: Path, outputs: Collection[str], items: Mapping[Side, int]) -> dict[Side, TokenArray]:
    """The token arrays of a store, by side.

    Args:
        directory: of the store.
        outputs: names of the files that its manifest lists.
        items: of each side.

    Raises:
        DataError: a file is missing, or the arrays do not fit each other or the items.
    """
    arrays = {side: TokenArray.open(directory, side) for side in items if f"{side}_tokens.npy" in outputs}
    for side, array in arrays.items():
        check_token_count(array, items[side], str(token_path(directory, side, "tokens")))
    return arrays


def names_tokens(outputs: Collection[str]) -> bool:
    """Whether a store whose manifest lists these files has tokens."""
    return any(f"{side}_tokens.npy" in outputs for side in get_args(Side))


def check_token_count(tokens: TokenArray, count: int, name: str) -> None:
    """Raise DataError unless there are tokens for every row of a side.

    Args:
        tokens: of the side.
        count: the side's rows.
        name: what the message calls the tokens.
    """
    if len(tokens) != count:
        raise DataError(f"{name}: of {len(tokens)} items, expected one for each row: {count}")


def count_to_offsets(counts: np.ndarray) -> np.ndarray:
    """The offsets int64 [items + 1] of items with these numbers of tokens [items]."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def token_rows(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows of all tokens of chosen items, int64, item by item."""
    starts, counts = offsets[rows], offsets[rows + 1] - offsets[rows]
    # Each item's tokens are numbered from its start: a running number, less where the item begins in it.
    begins = count_to_offsets(counts)
    return np.repeat(starts - begins[:-1], counts) + np.arange(begins[-1])


def check_offsets(offsets: np.ndarray, tokens: int, name: str) -> None:
    """Raise DataError unless offsets begin with 0, never fall, and end with the number of tokens.

    Args:
        offsets: expected integers [items + 1].
        tokens: of all items.
        name: what the message calls the offsets.
    """
    if offsets.ndim != 1 or not len(offsets) or offsets.dtype.kind not in "iu":
        raise DataError(f"{name}: shape {list(offsets.shape)} of {offsets.dtype}, expected integers [items + 1]")
    if offsets[0] != 0 or offsets[-1] != tokens:
        raise DataError(
            f"{name}: from {offsets[0]} to {offsets[-1]}, expected from 0 to the number of tokens: {tokens}"
        )
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if len(falls):
        raise DataError(f"{name}: fall after item {falls[0]}")


def quantise_tokens(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens as int8 with a scale each.

    Args:
        tokens: float32 [n, width].

    Returns:
        int8 [n, width] and float32 [n]; a value times its token's scale is within half a scale of the original.
    """
    scales = (np.abs(tokens).max(1, initial=0) / INT8_LIMIT).astype(np.float32)
    # A token of zeros has no scale to divide by.
    divisors = np.where(scales > 0, scales, 1)[:, None]
    return np.rint(tokens / divisors).clip(-INT8_LIMIT, INT8_LIMIT).astype(np.int8), scales
