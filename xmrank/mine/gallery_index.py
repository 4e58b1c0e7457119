"""FAISS indexes over a gallery's embeddings: the only module that uses FAISS, which is loaded at the first call."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from xmrank.config import MineConfig
from xmrank.runtime.device import may_use_gpu

if TYPE_CHECKING:
    import faiss

SHARD = 262_144
"""Gallery items of one index: what a worker holds in memory. Part of the result: partial results are merged."""
COMPRESSED_SHARD = 4_194_304
"""Gallery items of one compressed index, which takes 72 bytes an item at 512 dimensions."""
FEWEST_COMPRESSED = 32_768
"""With fewer items, exact search costs no more than training a compressed index."""
CODE_DIMENSIONS = 8
"""Numbers of an embedding that one byte of its code stands for."""
WHOLE_BYTES = 2 << 30
"""Galleries up to this size, in float32, are in one flat index in every worker's memory."""
ADD_BLOCK = 65_536
"""Rows that are converted to float32 and added at once."""
HNSW_LINKS = 32
CLUSTER_SEED = 1234
POINTS_A_CLUSTER = 64
"""Items that an inverted list's centre is trained on at most, and of a list on average at least."""


def use_one_thread() -> None:
    """Make FAISS search with one thread: there is one process a core, so more would only compete."""
    import faiss

    faiss.omp_set_num_threads(1)


def fits_memory(side: np.ndarray, rows: np.ndarray) -> bool:
    """Whether a flat index of these rows may be in a worker's memory."""
    return len(rows) * side.shape[1] * np.dtype(np.float32).itemsize <= WHOLE_BYTES


def make_flat_index(side: np.ndarray, rows: np.ndarray) -> faiss.IndexFlat:
    """An exact inner-product index; its id i is ``rows[i]``.

    Args:
        side: embeddings, [items, d].
        rows: which of them, int64.
    """
    import faiss

    use_one_thread()
    index = faiss.IndexFlatIP(side.shape[1])
    add_rows(index, side, rows)
    return index


def can_use_gpus(config: MineConfig) -> bool:
    """Whether this build of FAISS has the configured index on GPUs."""
    import faiss

    return config.index in ("flat", "ivf") and hasattr(faiss, "StandardGpuResources")


def sees_gpu() -> bool:
    """Whether FAISS, in a build for GPUs, has one here that this process may use."""
    import faiss

    return may_use_gpu() and bool(faiss.get_num_gpus())


def make_index(side: np.ndarray, rows: np.ndarray, config: MineConfig) -> faiss.Index:
    """The index that ``--index`` names (all but ``ivfpq``), on a GPU where FAISS has one; its id i is ``rows[i]``.

    Args:
        side: embeddings, [items, d].
        rows: which of them, int64.
        config: kind and settings of the index.
    """
    import faiss

    dimensions = side.shape[1]
    index: faiss.Index = faiss.IndexFlatIP(dimensions)
    if config.index == "ivf":
        # FAISS's rule of thumb, 4 √n lists, as long as every list has enough items to train its centre.
        lists = max(1, min(round(4 * len(rows) ** 0.5), len(rows) // POINTS_A_CLUSTER))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(config.probes, lists)
        index.cp.seed = CLUSTER_SEED
        index.cp.max_points_per_centroid = POINTS_A_CLUSTER
        step = -(-len(rows) // (lists * POINTS_A_CLUSTER))
        index.train(side[rows[::step]].astype(np.float32))
    elif config.index == "hnsw":
        index = faiss.IndexHNSWFlat(dimensions, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = config.ef_search
    if can_use_gpus(config) and sees_gpu():
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    add_rows(index, side, rows)
    return index


def make_compressed_index(side: np.ndarray, rows: np.ndarray, config: MineConfig) -> faiss.Index:
    """An inverted file of product-quantised codes (IVF-PQ), for ``--index ivfpq``; its id i is ``rows[i]``.

    It is trained on an evenly spaced sample, with one thread and fixed seeds, so that it is the same on every machine
    of a kind. On the CPU only.

    Args:
        side: embeddings, [items, d].
        rows: which of them, int64; few: the index is exact.
        config: settings of the index.

    Source: Jégou et al., "Product quantization for nearest neighbor search", TPAMI 2011; by FAISS.
    """
    import faiss

    if len(rows) < FEWEST_COMPRESSED:
        return make_flat_index(side, rows)
    use_one_thread()
    dimensions = side.shape[1]
    # √n lists: every item is compared with every list's centre, which is most of the work.
    lists = round(len(rows) ** 0.5)
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(dimensions), dimensions, lists, count_code_bytes(dimensions), 8, faiss.METRIC_INNER_PRODUCT
    )
    index.nprobe = min(config.probes, lists)
    index.cp.seed = index.pq.cp.seed = CLUSTER_SEED
    index.cp.max_points_per_centroid = POINTS_A_CLUSTER
    step = max(1, len(rows) // (lists * POINTS_A_CLUSTER))
    index.train(side[rows[::step]].astype(np.float32))
    add_rows(index, side, rows)
    return index


def count_code_bytes(dimensions: int) -> int:
    """Bytes of a code: one for ``CODE_DIMENSIONS`` numbers, or the next smaller number that divides the dimensions."""
    most = max(1, dimensions // CODE_DIMENSIONS)
    return max(count for count in range(1, most + 1) if dimensions % count == 0)


def add_rows(index: faiss.Index, side: np.ndarray, rows: np.ndarray) -> None:
    """Add embeddings to an index, a block at a time."""
    for start in range(0, len(rows), ADD_BLOCK):
        index.add(side[rows[start : start + ADD_BLOCK]].astype(np.float32))  # type: ignore[call-arg]
        release_pages(side)


def release_pages(side: np.ndarray) -> None:
    """Give back the pages of a file mapped for reading only: the process would grow to the size of the file.

    The system keeps them as long as nobody needs the memory.
    """
    if isinstance(side.base, mmap.mmap) and not side.flags.writeable:
        side.base.madvise(mmap.MADV_DONTNEED)


def compute_similarities(index: faiss.IndexFlat, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Inner products of queries with chosen items of the index.

    Args:
        index: an exact index.
        queries: float32 [queries, d].
        items: ids of the index, int64 [queries, width]; -1: none.

    Returns:
        float32 [queries, width]; -inf where there is no item.
    """
    import faiss

    result = np.full(items.shape, -np.inf, np.float32)
    vectors = np.ascontiguousarray(queries, np.float32)
    ids = np.ascontiguousarray(items, np.int64)
    # FAISS's Python wrapper does not cover this function: it takes pointers.
    index.compute_distance_subset(  # type: ignore[attr-defined]
        len(vectors), faiss.swig_ptr(vectors), items.shape[1], faiss.swig_ptr(result), faiss.swig_ptr(ids)
    )
    return np.where(items >= 0, result, -np.inf)
