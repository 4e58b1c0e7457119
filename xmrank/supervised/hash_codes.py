"""Hash codes: signs of outputs, and their search by Hamming distance."""

import faiss
import numpy as np
import torch
from torch import Tensor, nn

from xmrank.supervised.two_stage_knn import TwoStageRanking


class Signs(nn.Module):
    """1 where a number is at least 0, else −1."""

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, bits] → [rows, bits]."""
        return signs_of(rows)


def signs_of(rows: Tensor) -> Tensor:
    """sign with sign(0) = +1."""
    return torch.where(rows >= 0, 1.0, -1.0)


def pack_codes(codes: np.ndarray) -> np.ndarray:
    """Codes of ±1 as bits, uint8 [rows, bytes]; bits that fill up the last byte are 0 in all rows."""
    return np.packbits(codes > 0, axis=1)


def by_hamming(queries: np.ndarray, items: np.ndarray) -> TwoStageRanking:
    """Rank all items by the number of bits that differ, with FAISS's exact binary index.

    Items at equal distances are tied; they stand by their number.

    Args:
        queries: codes of ±1, [queries, bits].
        items: likewise, [items, bits].
    """
    packed = pack_codes(items)
    index = faiss.IndexBinaryFlat(8 * packed.shape[1])
    index.add(packed)
    found, rows = index.search(pack_codes(queries), len(items))  # type: ignore[call-arg]
    distances = np.empty(rows.shape, np.int64)
    np.put_along_axis(distances, rows, found.astype(np.int64), axis=1)
    # FAISS leaves the order of equal distances open; one key of distance and number settles it.
    order = np.argsort(distances * len(items) + np.arange(len(items)), axis=1)
    ranked = np.take_along_axis(distances, order, axis=1)
    tied = np.zeros(order.shape, np.bool_)
    tied[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    return TwoStageRanking(order, tied)
