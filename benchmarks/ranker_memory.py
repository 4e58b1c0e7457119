"""Peak memory of gathering an epoch: 29,000 queries × 51 candidates × (512 + 512) numbers of a memory-mapped store.

ranker_step.py runs it in a process of its own. Prints the bytes beyond what the interpreter uses with torch loaded.
"""

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:  # the memory of xmrank's own imports counts, so they are imported after the first measurement
    from xmrank.mine.candidate_lists import CandidateLists
    from xmrank.train.list_data import ListData

ROWS, DIMENSIONS, QUERIES, ITEMS, BATCH = 174_000, 512, 29_000, 51, 32


def peak() -> int:
    """The largest resident size of this process so far, in bytes."""
    # getrusage returns the size of the parent process if that was larger, so /proc is preferred.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_store(path: Path) -> None:
    """Write one side of a store, float16, block by block, so that writing it does not use much memory itself."""
    random = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(ROWS, DIMENSIONS))
    for start in range(0, ROWS, 1000):
        block = random.standard_normal((min(1000, ROWS - start), DIMENSIONS), dtype=np.float32)
        array[start : start + 1000] = block / np.linalg.norm(block, axis=1, keepdims=True)


def make_lists() -> "CandidateLists":
    """Random candidate lists with one positive each."""
    from xmrank.mine.candidate_lists import CandidateLists

    random = np.random.default_rng(1)
    labels = np.zeros((QUERIES, ITEMS), np.float32)
    labels[np.arange(QUERIES), random.integers(0, ITEMS, QUERIES)] = 1
    items = random.integers(0, ROWS, (QUERIES, ITEMS), dtype=np.int32)
    queries = random.integers(0, ROWS, QUERIES, dtype=np.int32)
    return CandidateLists.from_matrices(queries, items, labels, np.zeros_like(labels), np.full(QUERIES, ITEMS))


def gather_all(data: "ListData") -> None:
    """Gather every batch of an epoch and convert it to float32, as the ranker does."""
    order = np.random.default_rng(2).permutation(QUERIES)
    for start in range(0, QUERIES, BATCH):
        batch = data.gather_batch(order[start : start + BATCH])
        batch.candidates.float().sum(), batch.query.float().sum()


def main(store: Path) -> None:
    """Print by how many bytes one epoch raises the peak."""
    before = peak()
    from xmrank.train.list_data import ListData

    sides = [torch.from_numpy(np.load(store, mmap_mode="c")) for _ in range(2)]
    gather_all(ListData(make_lists(), sides[0], sides[1], torch.device("cpu")))
    print(peak() - before)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write_store(Path(sys.argv[2]))
    elif sys.argv[1] == "gather":
        main(Path(sys.argv[2]))
    else:
        raise SystemExit(f"{sys.argv[1]}: expected write or gather")
