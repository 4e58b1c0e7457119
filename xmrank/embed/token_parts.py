"""Tokens to import: arrays of one's own, memory-mapped, some of whose rows become a store's."""

from dataclasses import dataclass

import numpy as np

from xmrank.embed.token_store import check_offsets, token_rows
from xmrank.runtime.errors import DataError


@dataclass(frozen=True)
class TokenPart:
    """The tokens of some items, in one array.

    Attributes:
        name: what messages call the array.
        values: [tokens, channels], floating point.
        offsets: int64; the tokens of row i are ``offsets[i]`` … ``offsets[i + 1]``.
        items: the rows that are imported, in the order of the store.
    """

    name: str
    values: np.ndarray
    offsets: np.ndarray
    items: np.ndarray

    @classmethod
    def from_arrays(cls, values: np.ndarray, offsets: np.ndarray | None, name: str, every: int = 1) -> "TokenPart":
        """The tokens of an array.

        Args:
            values: [rows, tokens, channels], or [tokens of all rows, channels] with offsets.
            offsets: integers [rows + 1].
            name: what messages call the array.
            every: which rows are imported: every fifth where images are repeated for each of five captions.

        Raises:
            DataError: another shape or type.
        """
        if values.dtype.kind != "f":
            raise DataError(f"{name}: type {values.dtype}, expected floating-point numbers")
        if offsets is None:
            if values.ndim != 3 or 0 in values.shape:
                raise DataError(f"{name}: shape {list(values.shape)}, expected [items, tokens, width], or offsets too")
            rows, tokens, channels = values.shape
            # A view: the array may be larger than memory.
            values, offsets = values.reshape(rows * tokens, channels), np.arange(rows + 1) * tokens
        elif values.ndim != 2 or 0 in values.shape:
            raise DataError(f"{name}: shape {list(values.shape)}, expected [tokens, width] because offsets are given")
        check_offsets(offsets, len(values), f"offsets of {name}")
        return cls(name, values, np.asarray(offsets, np.int64), np.arange(0, len(offsets) - 1, every))

    @property
    def counts(self) -> np.ndarray:
        """Tokens of every item, int64 [items]."""
        return self.offsets[self.items + 1] - self.offsets[self.items]

    def read(self, items: np.ndarray) -> np.ndarray:
        """The tokens of chosen items (numbers among ``items``), float32 [tokens, channels].

        Raises:
            DataError: a token with NaN or infinity.
        """
        rows = self.items[items]
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused as such
            values: np.ndarray = self.values[token_rows(self.offsets, rows)].astype(np.float32)
        if not np.isfinite(values).all():
            row = next(
                row for row in rows if not np.isfinite(self.values[self.offsets[row] : self.offsets[row + 1]]).all()
            )
            raise DataError(f"{self.name}: the tokens of row {row} hold NaN or infinity")
        return values
